"""What goes wrong on the way, and what users see of it, with the real agent."""

from __future__ import annotations

import os
import shutil
import signal
import time

import pytest
from gateway_kit import Gateway, until

from larkline.sim.script import filler, parse

pytestmark = [pytest.mark.cli, pytest.mark.timeout(240)]


async def test_a_refused_key_ends_at_once(gateway: Gateway) -> None:
    """401 is told within seconds, not after the CLI's own ten retries; the next turn is fine."""
    await gateway.start()
    user = gateway.platform.users[0]
    gateway.model.enqueue(*parse("[[status:401]]"))
    began = time.monotonic()
    _, shown = await gateway.answer(user, "hello")
    assert len(gateway.model.requests) <= 2
    assert time.monotonic() - began < 20
    assert "refused the key" in shown
    assert "fine again" in (await gateway.answer(user, "[[text:fine again]]"))[1]


async def test_a_silent_model_is_cut(gateway: Gateway) -> None:
    """A stream that says nothing more is cut by the broker and explained; the text so far stays."""
    gateway.settings["LARKLINE_AGENT__STREAM_SILENCE_SECONDS"] = "2"
    await gateway.start()
    _, shown = await gateway.answer(gateway.platform.users[0], "[[tokens:20]][[stall:10]]")
    assert "Nothing was heard for too long" in shown
    assert "Send it again" in shown or "continue" in shown


async def test_a_silent_agent_is_ended(gateway: Gateway) -> None:
    """A frozen CLI gives no sign of life: its turn ends, its tree is gone, the next one works."""
    gateway.settings["LARKLINE_AGENT__SILENCE_SECONDS"] = "3"
    await gateway.start()
    user = gateway.platform.users[0]
    sent = gateway.platform.people.send(user, "[[text:begun]][[tokens:3000]][[delay:0.05]]")
    await gateway.until_shown(sent.message, "begun")
    frozen = gateway.clis()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    _, shown = await gateway.reply_to(sent.message)
    assert "Nothing was heard for too long" in shown
    assert "begun" in shown
    await until(lambda: not frozen & gateway.clis(), 10)
    assert "well again" in (await gateway.answer(user, "[[text:well again]]"))[1]


async def test_a_killed_agent_is_explained_and_its_context_stays(gateway: Gateway) -> None:
    """SIGKILL of the CLI: told at once, and the next turn remembers."""
    await gateway.start()
    user = gateway.platform.users[0]
    await gateway.answer(user, "[[text:ok]] the password is xylophone")
    sent = gateway.platform.people.send(user, "[[text:begun]][[tokens:3000]][[delay:0.05]]")
    await gateway.until_shown(sent.message, "begun")
    for pid in gateway.clis():
        os.kill(pid, signal.SIGKILL)
    assert "ended unexpectedly" in (await gateway.reply_to(sent.message))[1]
    assert "xylophone" in (await gateway.answer(user, "What did I say before?"))[1]


async def test_a_lost_home_is_rebuilt_from_our_transcript(gateway: Gateway) -> None:
    """With the CLI's own files gone the session goes on, and the user sees no error."""
    gateway.settings["LARKLINE_AGENT__IDLE_SECONDS"] = "0.3"
    await gateway.start()
    user = gateway.platform.users[0]
    await gateway.answer(user, "[[text:ok]] the password is xylophone")
    await until(lambda: not gateway.agents(), 20)
    shutil.rmtree(gateway.data_dir / "configs")
    _, shown = await gateway.answer(user, "What did I say before?")
    assert "xylophone" in shown
    assert "could not be restored" not in shown


async def test_a_refused_card_becomes_text(gateway: Gateway) -> None:
    """The answer arrives as plain text when the platform takes no card; once."""
    gateway.platform.faults.refuse("cardkit.card.create", 230099, times=50)
    await gateway.start()
    sent = gateway.platform.people.send(gateway.platform.users[0], "[[text:plain and simple]]")
    reply = await gateway.until_shown(sent.message, "plain and simple", settled=True)
    assert reply.msg_type == "text"
    assert len(gateway.shown(sent.message)) == 1


async def test_a_card_that_stops_streaming_is_followed_by_a_new_one(gateway: Gateway) -> None:
    """After the platform's ten minutes the answer goes on in a new card; the old one points on."""
    platform = gateway.platform
    await gateway.start()
    sent = platform.people.send(platform.users[0], "[[text:begun]][[tokens:300]][[delay:0.03]]")
    await gateway.until_shown(sent.message, "begun")
    await platform.clock.advance(601)
    await platform.until(lambda: len(gateway.shown(sent.message)) == 2, 20)
    old, new = gateway.shown(sent.message)
    await platform.until(lambda: "✅" in platform.text(new), 40)
    assert " t300" in platform.text(new)
    assert "Continued in the next card" in platform.text(old)
    assert " t9 " not in platform.text(old)


async def test_a_long_answer_is_split_and_whole(gateway: Gateway) -> None:
    """60,000 characters come in several cards, in order, nothing lost."""
    platform = gateway.platform
    await gateway.start()
    sent = platform.people.send(platform.users[0], "[[size:60000]]")
    await gateway.until_shown(sent.message, "✅", settled=True, seconds=60)
    await platform.until(lambda: "✅" in platform.text(gateway.shown(sent.message)[-1]), 30)
    shown = gateway.shown(sent.message)
    assert len(shown) >= 2
    assert platform.refusals() == []
    whole = "".join("".join(platform.text(m).rpartition("\n")[0].split()) for m in shown)
    assert whole == "".join(filler(60000).split())


async def test_a_reconnect_never_touches_a_turn(gateway: Gateway) -> None:
    """The connection drops in mid-turn: the answer comes whole, and new messages arrive."""
    platform = gateway.platform
    await gateway.start()
    sent = platform.people.send(platform.users[0], "[[text:begun]][[tokens:60]][[delay:0.05]]")
    await gateway.until_shown(sent.message, "begun")
    await platform.connections.drop()
    _, shown = await gateway.reply_to(sent.message)
    assert " t59 t60" in shown
    await platform.connected(seconds=30)
    assert "still here" in (await gateway.answer(platform.users[1], "[[text:still here]]"))[1]


async def test_odd_clicks_are_answered(gateway: Gateway) -> None:
    """A click with a plain string as its value gets a toast."""
    platform = gateway.platform
    await gateway.start()
    reply, _ = await gateway.answer(platform.users[0], "[[text:hi]]")
    click = await platform.people.click(platform.users[0], reply, value="just a string")
    assert click.code == 0
    assert click.toast is not None


async def test_strangers_and_a_full_house(gateway: Gateway) -> None:
    """A stranger is told once how to be let in; with `reject` the second message is turned away."""
    platform = gateway.platform
    friend, stranger = platform.users[0], platform.users[1]
    gateway.settings.update(
        {
            "LARKLINE_LANGUAGE": "zh",
            "LARKLINE_ADMISSION__POLICY": "allowlist",
            "LARKLINE_ADMISSION__USERS": platform.open_id(friend),
            "LARKLINE_LIMITS__OVERFLOW": "reject",
            "LARKLINE_LIMITS__MAX_CONCURRENT": "1",
        }
    )
    await gateway.start()
    _, told = await gateway.answer(stranger, "hello")
    assert platform.open_id(stranger) in told
    again = platform.people.send(stranger, "hello?")
    busy = platform.people.send(friend, "[[text:begun]][[tokens:200]][[delay:0.05]]")
    await gateway.until_shown(busy.message, "begun")
    _, refused = await gateway.answer(friend, "one more", chat=platform.group, mention=True)
    assert refused == "系统繁忙，请稍后重试 (当前 1/1 个并发进程)"
    assert gateway.shown(again.message) == []
    assert gateway.model.requests
    assert not any("hello" in r.prompts[-1] for r in gateway.model.requests if r.prompts)
