"""What the offline model says by itself: a plausible answer in the language of the prompt.

It knows a handful of wishes (write a file, list, read, run, recall) so that a demo shows the way
through tools and through a resumed session; anything else gets a friendly text with Markdown.
"""

import json
import re
from pathlib import PurePosixPath

from larkline.sim.asked import Asked
from larkline.sim.steps import Block, Step, Text, Thinking, Tool

_CJK = re.compile(r"[⺀-鿿]")
_FILE = re.compile(r"(?<![\w/.-])[\w-]+(?:/[\w-]+)*\.[A-Za-z]\w{0,7}\b", re.ASCII)
_SUMMARY = re.compile(r"create a detailed summary of the conversation", re.I)
_RECALL = re.compile(
    r"(what|which).{0,30}\b(i|we)\b.{0,20}\b(say|said|ask|asked|write|wrote|told)\b|do you remember"
    r"|刚才|之前.{0,6}(说|问|聊)|我(都)?(说|问)(了|过)|记得.{0,12}[吗么？?]|上一(句|条)",
    re.I,
)
_CREATE = re.compile(r"\b(create|write|make|add|generate)\b|创建|新建|生成|写(一)?(个|段|份)", re.I)
_NOUN = re.compile(r"\b(file|script|program|module)\b|文件|脚本|程序|代码", re.I)
_LIST = re.compile(
    r"(?:^|[:：])\s*ls\b|\b(list|show|what).{0,20}\bfiles\b"
    r"|(列出|查看|显示|有哪些|什么).{0,6}文件|目录",
    re.I,
)
_READ = re.compile(r"\b(read|open|cat|show)\b|读|打开|看看|查看", re.I)
_RUN = re.compile(r"\b(run|execute)\b|运行|执行|跑", re.I)
_THINK = re.compile(r"\bthink\b|想一想|思考|仔细想", re.I)
_SHOWN_CHARS = 1500


def plausible(asked: Asked) -> Step:
    """The step the model plays for a request that carries no directives."""
    zh = bool(_CJK.search(asked.prompt))
    if _SUMMARY.search(asked.prompt):
        return Step(blocks=(Text(_summary(asked)),))
    if asked.results:
        return Step(blocks=(Text(_after_tools(asked, zh)),))
    if asked.round:
        return Step(blocks=(Text("好的，继续完成。" if zh else "Done."),))
    if _RECALL.search(asked.prompt):
        return Step(blocks=(Text(_recall(asked, zh)),))
    tool = _tool(asked)
    if tool is not None and tool.name in asked.tools:
        before = "好的，我来处理。" if zh else "Sure, on it."
        return Step(blocks=(Text(before), tool))
    hello: tuple[Block, ...] = (Text(_hello(asked, zh)),)
    if _THINK.search(asked.prompt):
        thought = "先理清问题，再组织回答。" if zh else "First the question, then the answer."
        hello = (Thinking(thought), *hello)
    return Step(blocks=hello)


def mistaken(reason: str) -> Step:
    """The answer to a prompt whose directives cannot be read."""
    return Step(blocks=(Text(f"The offline model cannot read a directive: {reason}"),))


def _tool(asked: Asked) -> Tool | None:
    prompt = asked.prompt
    named = _FILE.search(prompt)
    name = named[0] if named else ""
    if _CREATE.search(prompt) and (name or _NOUN.search(prompt)):
        path = PurePosixPath(asked.cwd or ".") / (name or "hello.py")
        return _call("Write", file_path=str(path), content=_content(path.name, prompt))
    if _LIST.search(prompt):
        return _call("Bash", command="ls -la", description="List the workspace")
    if name and _RUN.search(prompt):
        return _call("Bash", command=f"python3 {name}", description=f"Run {name}")
    if name and _READ.search(prompt):
        return _call("Read", file_path=str(PurePosixPath(asked.cwd or ".") / name))
    return None


def _call(name: str, **fields: str) -> Tool:
    return Tool(name, json.dumps(fields, ensure_ascii=False))


def _content(name: str, prompt: str) -> str:
    if name.endswith(".py"):
        return f'"""Written by the offline model."""\n\nprint("Hello from {name}")\n'
    if name.endswith(".json"):
        return json.dumps({"writtenBy": "offline model"}, indent=2) + "\n"
    if name.endswith((".html", ".htm")):
        return "<!doctype html>\n<title>larkline</title>\n<h1>Hello from the offline model</h1>\n"
    return f"# {name}\n\n{prompt.strip()[:_SHOWN_CHARS]}\n"


def _after_tools(asked: Asked, zh: bool) -> str:
    shown = "\n".join(r.text for r in asked.results).strip()[:_SHOWN_CHARS]
    fence = "`" * max(3, 1 + max((len(m) for m in re.findall(r"`+", shown)), default=0))
    block = f"\n\n{fence}\n{shown}\n{fence}\n" if shown else "\n"
    if any(r.failed for r in asked.results):
        return (
            "这一步没有成功，工具的回答是：" if zh else "That did not work; the tool said:"
        ) + block
    end = "还需要我做什么吗？" if zh else "Anything else?"
    return ("完成了。工具的结果：" if zh else "Done. The tool reported:") + block + "\n" + end


def _recall(asked: Asked, zh: bool) -> str:
    earlier = [p.strip().replace("\n", " ")[:200] for p in asked.prompts[:-1]]
    if not earlier:
        return "这是这次会话的第一条消息。" if zh else "This is the first message of this session."
    lines = "\n".join(f"{n}. {text}" for n, text in enumerate(earlier, 1))
    head = f"我记得你之前说过 {len(earlier)} 句话：" if zh else "I remember what you wrote before:"
    return f"{head}\n\n{lines}"


def _summary(asked: Asked) -> str:
    lines = "\n".join(f"- {p.strip()[:200]}" for p in asked.prompts[:-1])
    return f"<summary>\nThe user wrote:\n{lines}\n</summary>"


def _hello(asked: Asked, zh: bool) -> str:
    quoted = asked.prompt.strip().replace("\n", " ")[:80]
    number = len(asked.prompts)
    if zh:
        return (
            f"你好！我是 larkline 的**离线模型**，不需要账号，也不会真正思考。"
            f"这是本次会话的第 {number} 条消息：“{quoted}”。\n\n"
            "你可以试试：\n\n"
            "- `写一个文件 hello.py`，我会调用 Write 工具\n"
            "- `列出文件`，我会运行 `ls`\n"
            "- `运行 hello.py`，看看权限规则怎么回答\n"
            "- `我刚才说了什么？`，证明会话被接着用\n\n"
            '```python\ndef greet(name: str) -> str:\n    return f"你好，{name}！"\n```\n\n'
            "接上真实的模型以后，这里就是 Claude 的回答。"
        )
    return (
        f"Hello! I am larkline's **offline model**: no account needed, and no real thinking. "
        f'This is message {number} of this session: "{quoted}".\n\n'
        "Things to try:\n\n"
        "- `create a file hello.py`: I call the Write tool\n"
        "- `list the files`: I run `ls`\n"
        "- `run hello.py`: see what the permission rules say\n"
        "- `what did I say before?`: shows that the session goes on\n\n"
        '```python\ndef greet(name: str) -> str:\n    return f"Hello, {name}!"\n```\n\n'
        "With a real model connected, this would be Claude's answer."
    )
