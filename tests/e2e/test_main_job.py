"""The job, end to end: a message becomes a turn of the real agent, streamed back into a card."""

from __future__ import annotations

import asyncio
import json
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from gateway_kit import KEY, Gateway, until

pytestmark = [pytest.mark.cli, pytest.mark.timeout(240)]


async def test_a_conversation_streams_and_continues(gateway: Gateway) -> None:
    """The card is there at once, grows, ends exact; the next message knows the one before."""
    platform = gateway.platform
    await gateway.start()
    user = platform.users[0]
    words = "".join(f"word{n} " for n in range(60)).strip()
    reply, shown = await gateway.answer(user, f"[[text:{words}]][[delay:0.02]]")
    assert words in shown
    card = platform.card(reply)
    assert card is not None
    grown = [r.text.splitlines()[0] for r in card.revisions if "word0" in r.text]
    assert len(grown) >= 3
    assert all(later.startswith(earlier) for earlier, later in pairwise(grown))
    assert not card.streaming
    _, second = await gateway.answer(user, "What did I say before?")
    assert "word10" in second
    assert platform.refusals() == []
    assert len(gateway.clis()) == 1  # the second turn found the agent warm
    assert await gateway.stop() == 0
    assert gateway.agents() == set()


async def test_groups_posts_and_other_kinds(gateway: Gateway) -> None:
    """Groups need the mention; a rich post is read; a sticker gets an answer."""
    platform = gateway.platform
    await gateway.start()
    user, group = platform.users[1], platform.group
    silent = platform.people.send(user, "[[text:never]]", chat=group)
    _, shown = await gateway.answer(user, "[[text:in the group]]", chat=group, mention=True)
    assert "in the group" in shown
    assert gateway.shown(silent.message) == []
    post = {"zh_cn": {"title": "T", "content": [[{"tag": "text", "text": "[[text:from post]]"}]]}}
    sent = platform.people.send_raw(user, "post", json.dumps(post))
    assert "from post" in (await gateway.reply_to(sent.message))[1]
    sticker = platform.people.send_raw(user, "sticker", json.dumps({"file_key": "x"}))
    assert "sticker" in (await gateway.reply_to(sticker.message))[1]


async def test_commands_stop_and_new(gateway: Gateway) -> None:
    """/stop acts within seconds, /status and /help answer, /new forgets."""
    platform = gateway.platform
    await gateway.start()
    user = platform.users[0]
    long = platform.people.send(user, "[[text:begun]][[tokens:5000]][[delay:0.05]]")
    await platform.until(
        lambda: any("begun" in platform.text(m) for m in gateway.shown(long.message))
    )
    waiting = platform.people.send(user, "[[text:next one]]")
    _, status = await gateway.answer(user, "/status")
    assert "running (" in status
    platform.people.send(user, "/停止")
    _, stopped = await gateway.reply_to(long.message, 8)
    assert "begun" in stopped
    assert "Stopped as you asked" in stopped
    assert "next one" in (await gateway.reply_to(waiting.message))[1]
    assert "/stop: stop" in (await gateway.answer(user, "/help"))[1]
    assert "new session" in (await gateway.answer(user, "/new"))[1]
    _, after = await gateway.answer(user, "What did I say before?")
    assert "next one" not in after


async def test_never_more_processes_than_the_limit(gateway: Gateway) -> None:
    """Starting, working and idle together stay within the limit; who waits is told once."""
    platform = gateway.platform
    gateway.settings["LARKLINE_LIMITS__MAX_CONCURRENT"] = "2"
    await gateway.start()
    user = platform.users[0]
    groups = [platform.add_group(f"g{n}", platform.users) for n in range(5)]
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(gateway.clis()))
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    sent = [
        platform.people.send(
            user, f"[[text:answer {n}]][[tokens:40]][[delay:0.05]]", chat=group, mention=True
        )
        for n, group in enumerate(groups)
    ]
    for n, each in enumerate(sent):
        await platform.until(
            lambda each=each, n=n: any(  # type: ignore[misc]
                f"answer {n}" in platform.text(m)
                and not getattr(platform.card(m), "streaming", True)
                for m in gateway.shown(each.message)
            ),
            90,
        )
    watching.cancel()
    assert 1 <= most <= 2
    told = [m for each in sent for m in gateway.shown(each.message) if "ahead" in platform.text(m)]
    assert 1 <= len(told) <= 3
    assert platform.refusals() == []


async def test_messages_sent_while_down_are_answered(gateway: Gateway) -> None:
    """What arrives while larkline is away is answered when it is back."""
    platform = gateway.platform
    sent = platform.people.send(platform.users[0], "[[text:better late]]")
    await gateway.start()
    await platform.clock.advance(20)
    assert "better late" in (await gateway.reply_to(sent.message))[1]


async def test_sigkill_leaves_no_orphan_and_the_card_is_settled(gateway: Gateway) -> None:
    """After SIGKILL in mid-tool: nothing runs on; the next start says so, and sends again."""
    platform = gateway.platform
    gateway.settings["LARKLINE_AGENT__ALLOW"] = "Bash"
    await gateway.start()
    user = platform.users[0]
    call = json.dumps({"command": "timeout 300 tail -f /dev/null"})
    sent = platform.people.send(user, f"[[tool:Bash {call}]][[then]][[text:through]]")
    await gateway.until_shown(sent.message, "Bash")
    assert gateway.agents()
    await gateway.stop(signal.SIGKILL)
    await until(lambda: not gateway.agents(), 5)
    await gateway.start()
    reply, shown = await gateway.reply_to(sent.message)
    assert "restarted and broke this task off" in shown
    click = await platform.people.click(user, reply, label="🔁 Send it again")
    assert click.code == 0
    assert click.toast is not None
    assert "Queued" in str(click.toast)


async def test_sigterm_drains(gateway: Gateway) -> None:
    """A running turn gets its time; one that takes longer is settled; exit 0, nothing left."""
    platform = gateway.platform
    gateway.settings["LARKLINE_LIMITS__DRAIN"] = "4"
    await gateway.start()
    short = platform.people.send(platform.users[0], "[[text:made it]][[tokens:40]][[delay:0.03]]")
    long = platform.people.send(platform.users[1], "[[text:begun]][[tokens:9000]][[delay:0.05]]")
    await gateway.until_shown(short.message, "made")
    await platform.until(
        lambda: any("begun" in platform.text(m) for m in gateway.shown(long.message))
    )
    assert await gateway.stop() == 0
    assert gateway.agents() == set()
    assert "made it" in platform.text(gateway.shown(short.message)[0])
    assert "broke this task off" in platform.text(gateway.shown(long.message)[0])


async def test_every_message_once_in_order(gateway: Gateway) -> None:
    """Five chats with four messages each, every event delivered twice and all shuffled.

    As after an outage: one answer each, in the order of writing.
    """
    platform = gateway.platform
    await gateway.start()
    groups = [platform.add_group(f"g{n}", platform.users) for n in range(5)]
    platform.deliveries.hold()
    sent = []
    for n in range(4):
        words = f"[[text:answer {n}]]"
        sent += [
            platform.people.send(platform.users[0], words, chat=group, mention=True)
            for group in groups
        ]
        await asyncio.sleep(0.005)  # the platform's times are whole milliseconds
    await asyncio.sleep(2.2)  # the gateway goes by its own clock: younger ones count as fresh
    platform.deliveries.release(shuffle=True, copies=2)
    for each in sent:
        await gateway.reply_to(each.message, 120)
    for group in groups:
        texts = [platform.text(reply) for reply in platform.replies(group)]
        answers = [words.split("\n")[0] for words in texts if words.startswith("answer")]
        assert answers == [f"answer {n}" for n in range(4)]


async def test_a_second_process_is_refused(gateway: Gateway) -> None:
    """One process a data directory: the second ends with 2 and says who holds it."""
    await gateway.start()
    assert gateway.process is not None
    second = await gateway.spawn("run")
    assert await asyncio.wait_for(second.wait(), 20) == 2
    assert f"process {gateway.process.pid}" in gateway.log_path.read_text()


async def test_secrets_stay_out_of_logs_and_ps(gateway: Gateway) -> None:
    """Neither the app's secret nor the key nor a prompt is in the log or on a command line."""
    platform = gateway.platform
    gateway.settings["LARKLINE_LOG__LEVEL"] = "debug"
    await gateway.start()
    secret_prompt = "the launch code is swordfish"
    await gateway.answer(platform.users[0], f"[[text:fine]] {secret_prompt}")
    lines = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if _readable(p)]
    seen = gateway.log_path.read_bytes() + b"".join(lines)
    for secret in (KEY, platform.app.secret, "swordfish"):
        assert secret.encode() not in seen


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True
