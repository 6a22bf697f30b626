"""The catalogue. A key names the occasion; `{fields}` are filled in by the caller."""

from __future__ import annotations

from collections.abc import Mapping

from larkline.domain.model import Language

CATALOGUE: Mapping[str, Mapping[Language, str]] = {
    # Waiting and turning away
    "busy": {
        "zh": "系统繁忙，请稍后重试 (当前 {running}/{limit} 个并发进程)",
        "en": "Too busy right now, please try again later ({running}/{limit} agent processes)",
    },
    "position": {
        "zh": "⏳ 已收到，前面还有 {ahead} 条，轮到时会自动开始。",
        "en": "⏳ Received. {ahead} ahead of it; it starts by itself when its turn comes.",
    },
    # Messages that start no turn
    "unsupported": {
        "zh": "暂时还不能处理这种消息（{kind}）。请用文字或富文本告诉我。",
        "en": "I can't handle this kind of message yet ({kind}). Please write it as text.",
    },
    "empty": {
        "zh": "这条消息里没有文字。请直接告诉我要做什么，或发送 /help 查看用法。",
        "en": "There is no text in this message. Tell me what to do, or send /help.",
    },
    "stranger": {
        "zh": (
            "您还没有使用权限。请把这个 ID 发给管理员，加入 admission.users 后即可使用：\n{user}"
        ),
        "en": (
            "You are not admitted yet. Send this id to an administrator, who adds it to "
            "admission.users:\n{user}"
        ),
    },
    # Commands
    "help": {
        "zh": (
            "直接发消息，我会在这个会话的工作区里完成，并在卡片中实时显示过程。"
            "群聊里请先 @我。\n"
            "/new（新会话）：从这里开始一个新会话，忘掉之前的上下文\n"
            "/stop（停止）：立刻停止正在运行的任务，排队的不受影响\n"
            "/status（状态）：查看运行状态\n"
            "/help（帮助）：显示本说明"
        ),
        "en": (
            "Just write: I work in this conversation's workspace and show every step in a card. "
            "In groups, @mention me first.\n"
            "/new: start afresh here, without the context so far\n"
            "/stop: stop what is running now; waiting messages stay\n"
            "/status: show what is going on\n"
            "/help: show this text"
        ),
    },
    "unknown_command": {
        "zh": "没有 {command} 这个命令。发送 /help 查看可用的命令。",
        "en": "There is no command {command}. Send /help for the list.",
    },
    "nothing_running": {
        "zh": "当前没有正在运行的任务。",
        "en": "Nothing is running.",
    },
    "nothing_running_queued": {
        "zh": "当前没有正在运行的任务，有 {queued} 条消息在排队。",
        "en": "Nothing is running; {queued} messages are waiting.",
    },
    "new_session": {
        "zh": "🆕 已开始新会话，之前的上下文不再使用。",
        "en": "🆕 A new session begins; the context so far is no longer used.",
    },
    "status": {
        "zh": (
            "larkline {version} · 已运行 {uptime}\n"
            "本会话：{conversation}\n"
            "进程：{active}/{limit} · 运行中 {running} · 排队 {queued}\n"
            "隔离：{isolation} · 会话 ID：{session}"
        ),
        "en": (
            "larkline {version} · up {uptime}\n"
            "This conversation: {conversation}\n"
            "Processes: {active}/{limit} · running {running} · waiting {queued}\n"
            "Isolation: {isolation} · session: {session}"
        ),
    },
    "status_running": {"zh": "正在运行（{elapsed}）", "en": "running ({elapsed})"},
    "status_idle": {"zh": "空闲", "en": "idle"},
    "status_no_session": {"zh": "无", "en": "none"},
    # The card while it runs; the status line is "word · elapsed"
    "card.starting": {"zh": "准备中", "en": "Getting ready"},
    "card.thinking": {"zh": "思考中", "en": "Thinking"},
    "card.writing": {"zh": "回答中", "en": "Answering"},
    "card.running": {"zh": "正在执行 {tool}", "en": "Running {tool}"},
    "card.retrying": {
        "zh": "模型没有回应，正在重试",
        "en": "The model did not answer, trying again",
    },
    "card.denied": {
        "zh": "未获许可，没有执行",
        "en": "not permitted, so it did not run",
    },
    "card.failed": {"zh": "失败", "en": "failed"},
    "card.more_tools": {"zh": "… 前面还有 {count} 步", "en": "… {count} earlier steps"},
    "card.continued": {"zh": "⤵️ 内容在下面的新卡片中继续。", "en": "⤵️ Continued in the next card."},
    "card.moved": {"zh": "内容已合并到其他卡片。", "en": "This part moved to the other cards."},
    "card.as_text": {
        "zh": "⤵️ 这个回答无法用卡片显示，见下面的文字消息。",
        "en": "⤵️ This answer can't be shown in a card; see the text message below.",
    },
    "card.refused": {
        "zh": (
            "⚠️ 平台拒绝显示这部分回答（代码 {code}）。"
            "请让我把它写成文件、分成小段发送，或换一种说法再问。"
        ),
        "en": (
            "⚠️ The platform refused to show this part of the answer (code {code}). Ask for it "
            "as a file or in smaller parts, or ask differently."
        ),
    },
    "card.no_buttons": {
        "zh": "（文字消息没有按钮：要重试，请把您的消息再发送一次。）",
        "en": "(A text message has no buttons: to try again, send your message again.)",
    },
    # The card at the end
    "done": {"zh": "✅ {elapsed}", "en": "✅ {elapsed}"},
    "stopped": {"zh": "⏹ 已停止 · {elapsed}", "en": "⏹ Stopped · {elapsed}"},
    "stopped_body": {"zh": "⏹ 已按您的要求停止。", "en": "⏹ Stopped as you asked."},
    "failed": {"zh": "❌ 失败 · {elapsed}", "en": "❌ Failed · {elapsed}"},
    "failure": {"zh": "❌ 处理失败: {reason}\n{advice}", "en": "❌ Failed: {reason}\n{advice}"},
    "context_lost": {
        "zh": "ℹ️ 之前的会话已无法恢复，这是一个新会话。",
        "en": "ℹ️ The earlier session could not be restored; this is a new one.",
    },
    "button_again": {"zh": "🔁 再发送一次", "en": "🔁 Send it again"},
    "toast_again": {"zh": "已重新加入队列。", "en": "Queued again."},
    "toast_again_done": {
        "zh": "这条消息已经重新发送过，或仍在处理。",
        "en": "It was already sent again, or is still being worked on.",
    },
    "toast_full": {
        "zh": "排队的消息已满，请稍后再点一次。",
        "en": "Too many messages are waiting. Press it again later.",
    },
    "toast_unknown": {"zh": "这个按钮已失效。", "en": "This button no longer works."},
    "toast_not_yours": {
        "zh": "您没有权限使用这个按钮。",
        "en": "You are not permitted to use this button.",
    },
    # How a turn ended, by class: the reason, and what to do
    "ending.interrupted": {
        "zh": "服务重启，这个任务被中断了。",
        "en": "The service restarted and broke this task off.",
    },
    "advice.interrupted": {
        "zh": "已完成的改动还在工作区里。请确认后点击下面的按钮重新发送，或直接说“继续”。",
        "en": (
            "What it changed so far is still in the workspace. "
            "Check, then press the button below, or just write “continue”."
        ),
    },
    "ending.authentication": {
        "zh": "模型服务拒绝了密钥。",
        "en": "The model service refused the key.",
    },
    "advice.authentication": {
        "zh": "请联系管理员检查 agent.env 中的模型密钥。重试没有用。",
        "en": (
            "Ask an administrator to check the model key in agent.env. Trying again will not help."
        ),
    },
    "ending.billing": {"zh": "模型账户余额不足。", "en": "The model account is out of credit."},
    "advice.billing": {
        "zh": "请联系管理员充值。",
        "en": "Ask an administrator to top it up.",
    },
    "ending.rate_limited": {
        "zh": "模型服务限流。",
        "en": "The model service limits our rate.",
    },
    "advice.rate_limited": {
        "zh": "请稍等片刻再发送一次。",
        "en": "Wait a moment, then send it again.",
    },
    "ending.overloaded": {
        "zh": "模型服务过载。",
        "en": "The model service is overloaded.",
    },
    "advice.overloaded": {
        "zh": "请稍等片刻再发送一次。",
        "en": "Wait a moment, then send it again.",
    },
    "ending.upstream": {
        "zh": "模型服务出错{code}。",
        "en": "The model service failed{code}.",
    },
    "advice.upstream": {
        "zh": "请稍后再发送一次；如果一直这样，请联系管理员。",
        "en": "Send it again later; if it stays so, tell an administrator.",
    },
    "ending.unreachable": {
        "zh": "连接不上模型服务。",
        "en": "The model service can't be reached.",
    },
    "advice.unreachable": {
        "zh": "请稍后再发送一次；管理员可用 larkline doctor 检查。",
        "en": "Send it again later; an administrator can check with larkline doctor.",
    },
    "ending.bad_request": {
        "zh": "模型服务不接受这个请求{code}。",
        "en": "The model service does not accept this request{code}.",
    },
    "advice.bad_request": {
        "zh": "请换一种说法，或用 /new 开始新会话。",
        "en": "Put it differently, or start afresh with /new.",
    },
    "ending.too_long": {
        "zh": "会话太长，超出了模型的上下文。",
        "en": "The conversation no longer fits the model's context.",
    },
    "advice.too_long": {
        "zh": "请用 /new 开始新会话，再发送一次。",
        "en": "Start afresh with /new and send it again.",
    },
    "ending.no_model": {
        "zh": "模型不存在或没有权限。",
        "en": "The model does not exist or is not available to us.",
    },
    "advice.no_model": {
        "zh": "请联系管理员检查 agent.model。",
        "en": "Ask an administrator to check agent.model.",
    },
    "ending.turn_limit": {
        "zh": "达到了单次任务的步数上限。",
        "en": "The limit of steps for one task was reached.",
    },
    "advice.turn_limit": {"zh": "说“继续”即可接着做。", "en": "Write “continue” to go on."},
    "ending.budget": {
        "zh": "达到了单次任务的费用上限。",
        "en": "The budget of one task was used up.",
    },
    "advice.budget": {"zh": "说“继续”即可接着做。", "en": "Write “continue” to go on."},
    "ending.no_output": {
        "zh": "模型没有给出任何内容。",
        "en": "The model gave no output.",
    },
    "advice.no_output": {
        "zh": "请再发送一次，或换一种说法。",
        "en": "Send it again, or put it differently.",
    },
    "ending.silent": {
        "zh": "太久没有任何动静，已停止。",
        "en": "Nothing was heard for too long, so it was stopped.",
    },
    "advice.silent": {
        "zh": "上下文已保留。请再发送一次，或说“继续”。",
        "en": "The context is kept. Send it again, or write “continue”.",
    },
    "ending.timed_out": {
        "zh": "超过了单次任务的时间上限，已停止。",
        "en": "The time limit of one task was reached, so it was stopped.",
    },
    "advice.timed_out": {
        "zh": "上下文已保留，说“继续”即可接着做。",
        "en": "The context is kept; write “continue” to go on.",
    },
    "ending.resume_failed": {
        "zh": "之前的会话无法恢复。",
        "en": "The earlier session could not be restored.",
    },
    "advice.resume_failed": {
        "zh": "请用 /new 开始新会话，再发送一次。",
        "en": "Start afresh with /new and send it again.",
    },
    "ending.agent_died": {
        "zh": "Claude 进程意外结束{code}。",
        "en": "The Claude process ended unexpectedly{code}.",
    },
    "advice.agent_died": {
        "zh": "上下文已保留。请再发送一次，或说“继续”。",
        "en": "The context is kept. Send it again, or write “continue”.",
    },
    "ending.agent_unstartable": {
        "zh": "Claude 进程无法启动。",
        "en": "The Claude process could not be started.",
    },
    "advice.agent_unstartable": {
        "zh": "请联系管理员运行 larkline doctor 检查。",
        "en": "Ask an administrator to run larkline doctor.",
    },
    "ending.internal": {
        "zh": "larkline 内部错误（任务 {turn}）。",
        "en": "An internal error of larkline (turn {turn}).",
    },
    "advice.internal": {
        "zh": "请再发送一次；如果一直这样，请把任务号告诉管理员。",
        "en": "Send it again; if it stays so, give the turn's number to an administrator.",
    },
    # The demo, on the terminal
    "demo.starting": {
        "zh": "正在启动模拟飞书平台、larkline 与离线模型 …",
        "en": "Starting the simulated platform, larkline and the offline model …",
    },
    "demo.real_model": {
        "zh": "使用您自己的密钥连接真实模型，会产生费用。",
        "en": "Using a real model with your own key; this costs money.",
    },
    "demo.ready": {
        "zh": "已就绪（{seconds:.1f} 秒）。数据目录：{data_dir}",
        "en": "Ready after {seconds:.1f} s. Data directory: {data_dir}",
    },
    "demo.first_prompt": {
        "zh": "请在工作区里创建文件 hello.txt，内容是：你好，飞书",
        "en": "Please create a file hello.txt that says: hello, chat",
    },
    "demo.second_prompt": {"zh": "我刚才说了什么？", "en": "What did I say before?"},
    "demo.timings": {
        "zh": "  收到确认 {ack:.0f} ms · 卡片可见 {card:.0f} ms · 首字 {first:.0f} ms · "
        "完成 {whole:.0f} ms",
        "en": "  acked {ack:.0f} ms · card {card:.0f} ms · first text {first:.0f} ms · "
        "done {whole:.0f} ms",
    },
    "demo.open": {
        "zh": "聊天页面：{url} （按 Ctrl-C 结束）",
        "en": "Chat page: {url} (Ctrl-C ends it)",
    },
    "demo.no_answer": {
        "zh": "没有等到回答。网关日志的最后几行：",
        "en": "No answer arrived. The gateway's last log lines:",
    },
    "demo.ended": {"zh": "已结束，没有留下进程。", "en": "Ended; no process is left."},
    # The doctor, on the terminal
    "doctor.app": {"zh": "应用", "en": "App"},
    "doctor.model": {"zh": "模型", "en": "Model"},
    "doctor.data_dir": {"zh": "数据目录", "en": "Data directory"},
    "doctor.cli": {"zh": "Claude Code", "en": "Claude Code"},
    "doctor.isolation": {"zh": "隔离", "en": "Isolation"},
    "doctor.bot": {"zh": "机器人", "en": "Bot"},
    "doctor.connection": {"zh": "长连接", "en": "Long connection"},
    "doctor.scopes": {"zh": "权限", "en": "Scopes"},
    "doctor.missing": {"zh": "缺少设置 {keys}", "en": "set {keys}"},
    "doctor.no_key": {
        "zh": "agent.env 中没有 ANTHROPIC_API_KEY 或 ANTHROPIC_AUTH_TOKEN，larkline 无法代管密钥",
        "en": "no ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN in agent.env: no broker keeps the key",
    },
    "doctor.free": {"zh": "可用", "en": "free"},
    "doctor.scopes_missing": {
        "zh": "请在开发者后台开通并发布：{scopes}",
        "en": "grant these in the developer console and publish a version: {scopes}",
    },
    "doctor.scopes_granted": {"zh": "已全部开通", "en": "all granted"},
    "doctor.level.full": {
        "zh": "full：每个会话只看得到自己的工作区，进程必定结束",
        "en": "full: an agent sees its own workspace only, and surely ends",
    },
    "doctor.level.tree-only": {
        "zh": "tree-only：进程必定结束，但看得到全部文件",
        "en": "tree-only: an agent surely ends, but sees all files",
    },
    "doctor.level.none": {
        "zh": "none：没有隔离，结束进程靠守护进程",
        "en": "none: no isolation; the guard alone ends agents",
    },
    "doctor.hole.outside_daemons": {
        "zh": "交给外部守护进程（docker、at、cron）的工作不会被结束",
        "en": "work handed to a daemon outside (docker, at, cron) is not ended",
    },
    "doctor.hole.guard_killed": {
        "zh": "守护进程若被杀，工具会运行到 larkline 回收为止",
        "en": "if the guard is killed, tools run until larkline collects them",
    },
    "doctor.hole.no_kernel_help": {
        "zh": "不是 Linux：只能尽力结束进程",
        "en": "not Linux: ending what an agent started is best effort",
    },
    "doctor.hole.all_files": {
        "zh": "能读写 larkline 用户的全部文件",
        "en": "it reads and writes all that larkline's user may",
    },
    "doctor.hole.host_processes": {
        "zh": "能看到主机上的进程",
        "en": "it sees the host's processes",
    },
    "doctor.hole.root": {
        "zh": "以 root 运行，请改用普通用户",
        "en": "agents run as root; use an ordinary user",
    },
}
