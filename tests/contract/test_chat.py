"""The contract of `Chat`, over the Feishu chat on the simulated platform and the scripted one."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from chat_rigs import QUICK, FeishuRig, Rig, ScriptedRig, until

from larkline.chats.feishu.chat import FeishuChat
from larkline.chats.feishu.settings import FeishuSettings
from larkline.chats.scripted import ScriptedChat
from larkline.domain.errors import (
    ChatGone,
    ContentRefused,
    LarklineError,
    Permanent,
    SequenceStale,
    StoreError,
    StreamClosed,
    TargetGone,
    Transient,
)
from larkline.domain.model import (
    Button,
    CardView,
    ChatEvent,
    Click,
    Inbound,
    MessageId,
    Target,
    Toast,
)
from larkline.lifecycle import running
from larkline.ports import Receive
from larkline.sim.platform import Platform

VIEW = CardView("first text", "thinking", True, "summary", (Button("Stop", {"act": "stop"}),))


@pytest.fixture(params=["feishu", "scripted"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    if request.param == "scripted":
        yield ScriptedRig(ScriptedChat())
        return
    async with Platform() as platform:
        settings = FeishuSettings(platform.app.app_id, platform.app.secret, platform.domain, QUICK)
        async with FeishuChat(settings) as chat:
            yield FeishuRig(chat, platform)


@asynccontextmanager
async def _running(rig: Rig, receive: Receive) -> AsyncIterator[None]:
    async with running("chat", rig.chat.run(receive)):
        await rig.ready()
        yield


def _collector(
    events: list[ChatEvent], then: Callable[[ChatEvent], Awaitable[Toast | None]] | None = None
) -> Receive:
    async def receive(event: ChatEvent) -> Toast | None:
        events.append(event)
        return await then(event) if then is not None else None

    return receive


# what comes in


async def test_every_event_is_handed_to_receive(rig: Rig) -> None:
    """A user's message arrives as an Inbound of its place, and is acknowledged."""
    events: list[ChatEvent] = []
    async with _running(rig, _collector(events)):
        assert await rig.says("hello")
    assert len(events) == 1
    assert isinstance(events[0], Inbound)
    assert (events[0].text, events[0].place) == ("hello", rig.place)


async def test_an_exception_means_not_stored(rig: Rig) -> None:
    """What `receive` raises is not acknowledged as stored; the chat lives on."""

    async def fail(_: ChatEvent) -> Toast | None:
        raise StoreError("store full")

    events: list[ChatEvent] = []
    async with _running(rig, _collector(events, fail)):
        assert not await rig.says("one")
        assert not await rig.says("two")
    assert len(events) == 2


async def test_unknown_events_are_acknowledged(rig: Rig) -> None:
    """Events of types we don't know are acknowledged."""
    async with _running(rig, _collector([])):
        assert await rig.odd_event()


async def test_a_click_is_answered_with_the_toast(rig: Rig) -> None:
    """The button's value comes back in the Click, and the toast is shown."""
    toast = Toast("stopping", "info")

    async def answer(event: ChatEvent) -> Toast | None:
        return toast if isinstance(event, Click) else None

    events: list[ChatEvent] = []
    async with _running(rig, _collector(events, answer)):
        card = await rig.chat.create_card(VIEW)
        shown = await rig.chat.send_card(Target(rig.place), card, "k")
        assert await rig.clicks(shown) == toast
    assert isinstance(events[-1], Click)
    assert (events[-1].value, events[-1].message_id) == ({"act": "stop"}, shown)


async def test_the_connection_tells_its_state(rig: Rig) -> None:
    """Before the start, during a loss and after it the state is told, with a reason while away."""
    before = rig.chat.connection()
    assert not before.connected
    assert before.reason
    async with _running(rig, _collector([])):
        await until(lambda: rig.chat.connection().connected)
        assert rig.chat.connection().reason == ""
        await rig.lose()
        away = rig.chat.connection()
        assert not away.connected
        assert away.reason
        await until(lambda: rig.chat.connection().connected)
        await until(lambda: rig.chat.connection().bot is not None)
        assert await rig.says("still there?")


async def test_run_ends_when_cancelled_and_not_before(rig: Rig) -> None:
    """`run` survives refusals; cancelled, it ends soon."""
    task = asyncio.create_task(rig.chat.run(_collector([])))
    await rig.ready()
    await until(lambda: rig.chat.connection().connected)
    await rig.lose()
    await until(lambda: rig.chat.connection().connected)
    assert not task.done()
    task.cancel()
    async with asyncio.timeout(3):
        with pytest.raises(asyncio.CancelledError):
            await task


# pages

LONG = "\n".join(
    f"## Part {n}\n\nSome words about part {n}, and more of them.\n\n```python\n"
    + "\n".join(f"line_{n}_{k} = {k}" for k in range(60))
    + "\n```\n"
    for n in range(60)
)


def _bare(text: str) -> str:
    """The text without white space and fence lines."""
    kept = (line for line in text.splitlines() if not re.match(r"\s*(`{3,}|~{3,})", line))
    return re.sub(r"\s", "", "".join(kept))


@pytest.mark.parametrize("text", ["", "short", LONG, "word " * 50_000])
async def test_pages_lose_nothing(rig: Rig, text: str) -> None:
    """There is at least one page; together they hold all but white space and fence lines."""
    pages = rig.chat.pages(text)
    assert pages
    assert rig.chat.pages(text) == pages
    assert _bare("\n".join(pages)) == _bare(text)
    assert all(page.count("```") % 2 == 0 for page in pages)


async def test_a_growing_text_keeps_its_pages(rig: Rig) -> None:
    """A longer text that begins with a shorter one keeps all its pages but the last."""
    short, longer = rig.chat.pages(LONG[: len(LONG) // 2]), rig.chat.pages(LONG)
    assert len(longer) > len(short) > 1
    assert longer[: len(short) - 1] == short[:-1]


# cards


async def test_a_new_card_is_in_no_chat(rig: Rig) -> None:
    """Making a card shows nothing; making it again makes another one."""
    first, second = await rig.chat.create_card(VIEW), await rig.chat.create_card(VIEW)
    assert first != second
    assert rig.shown() == []


async def test_the_same_key_shows_a_card_once(rig: Rig) -> None:
    """Sending with the same key again gives the same message."""
    card = await rig.chat.create_card(VIEW)
    first = await rig.chat.send_card(Target(rig.place), card, "key")
    assert await rig.chat.send_card(Target(rig.place), card, "key") == first
    assert len(rig.shown()) == 1
    assert "first text" in rig.shown()[0]


async def test_a_live_card_streams_its_fields(rig: Rig) -> None:
    """Each field of a live card can be set, with rising sequences."""
    card = await rig.chat.create_card(VIEW)
    await rig.chat.send_card(Target(rig.place), card, "k")
    await rig.chat.stream(card, "text", "grown text", 1)
    await rig.chat.stream(card, "status", "12 s", 5)
    assert "grown text" in rig.shown()[0]
    assert "first text" not in rig.shown()[0]


async def test_sequences_only_rise(rig: Rig) -> None:
    """A sequence that was used, or a lower one, is SequenceStale, for every call on the card."""
    card = await rig.chat.create_card(VIEW)
    await rig.chat.send_card(Target(rig.place), card, "k")
    await rig.chat.stream(card, "text", "two", 2)
    for sequence in (2, 1):
        with pytest.raises(SequenceStale):
            await rig.chat.stream(card, "text", "late", sequence)
        with pytest.raises(SequenceStale):
            await rig.chat.replace_card(card, VIEW, sequence)
    assert "two" in rig.shown()[0]


async def test_a_card_can_be_replaced_and_streams_on(rig: Rig) -> None:
    """Replacing with a live view keeps the stream; at most two sequences are used."""
    card = await rig.chat.create_card(VIEW)
    await rig.chat.send_card(Target(rig.place), card, "k")
    await rig.chat.replace_card(card, replace(VIEW, text="second text"), 1)
    assert "second text" in rig.shown()[0]
    await rig.chat.stream(card, "text", "third text", 3)
    assert "third text" in rig.shown()[0]


async def test_a_final_view_ends_the_streaming(rig: Rig) -> None:
    """After a view that is not live, `stream` is StreamClosed; replacing works on."""
    card = await rig.chat.create_card(VIEW)
    await rig.chat.send_card(Target(rig.place), card, "k")
    await rig.chat.replace_card(card, replace(VIEW, text="the end", live=False), 1)
    with pytest.raises(StreamClosed):
        await rig.chat.stream(card, "text", "late", 3)
    await rig.chat.replace_card(card, replace(VIEW, text="corrected", live=False), 4)
    assert "corrected" in rig.shown()[0]


# texts


async def test_the_same_key_shows_a_text_once(rig: Rig) -> None:
    """Sending a text with the same key again gives the same message; another key another."""
    first = await rig.chat.send_text(Target(rig.place), "hello", "one")
    assert await rig.chat.send_text(Target(rig.place), "hello", "one") == first
    assert await rig.chat.send_text(Target(rig.place), "hello", "two") != first
    assert rig.shown() == ["hello", "hello"]


async def test_a_huge_text_is_cut_and_sent(rig: Rig) -> None:
    """A text over the platform's limit is cut, not refused."""
    await rig.chat.send_text(Target(rig.place), "long " * 100_000, "k")
    assert rig.shown()[0].startswith("long long")


async def test_our_own_messages_can_be_read_back(rig: Rig) -> None:
    """Only ours, only since then, oldest first, with kind and text."""
    before = time.time() - 5
    events: list[ChatEvent] = []
    async with _running(rig, _collector(events)):
        await rig.says("a question")
        first = await rig.chat.send_text(Target(rig.place), "an answer", "k1")
        card = await rig.chat.create_card(VIEW)
        second = await rig.chat.send_card(Target(rig.place), card, "k2")
    found = await rig.chat.sent_since(Target(rig.place), before)
    assert [(each.id, each.kind) for each in found] == [(first, "text"), (second, "interactive")]
    assert found[0].text == "an answer"
    assert before < found[0].created_at <= found[1].created_at
    assert await rig.chat.sent_since(Target(rig.place), time.time() + 60) == ()


# errors

SENDS = (TargetGone, ChatGone, ContentRefused, Transient, Permanent)
RAISES: list[tuple[str, type[LarklineError]]] = [
    *(("create_card", kind) for kind in (ContentRefused, Transient, Permanent)),
    *(("send_card", kind) for kind in SENDS),
    *(
        ("stream", kind)
        for kind in (StreamClosed, SequenceStale, ContentRefused, Transient, Permanent)
    ),
    *(("replace_card", kind) for kind in (SequenceStale, ContentRefused, Transient, Permanent)),
    *(("send_text", kind) for kind in (TargetGone, ChatGone, Transient, Permanent)),
    *(("sent_since", kind) for kind in (ChatGone, Transient, Permanent)),
]


@pytest.mark.parametrize(("method", "kind"), RAISES)
async def test_refusals_are_typed_and_change_nothing(
    rig: Rig, method: str, kind: type[LarklineError]
) -> None:
    """Each refusal is raised as its class; the same call works afterwards."""
    card = await rig.chat.create_card(VIEW)
    target = Target(rig.place)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "create_card": lambda: rig.chat.create_card(VIEW),
        "send_card": lambda: rig.chat.send_card(target, card, "k"),
        "stream": lambda: rig.chat.stream(card, "text", "x", 1),
        "replace_card": lambda: rig.chat.replace_card(card, VIEW, 1),
        "send_text": lambda: rig.chat.send_text(target, "x", "k"),
        "sent_since": lambda: rig.chat.sent_since(target, 0.0),
    }
    rig.refuse(method, kind)
    with pytest.raises(kind) as caught:
        await calls[method]()
    assert type(caught.value) is kind
    assert rig.shown() == []
    await calls[method]()


@pytest.mark.parametrize("method", ["send_card", "send_text"])
async def test_a_send_without_an_answer_is_unsure_and_idempotent(rig: Rig, method: str) -> None:
    """A lost answer is Transient and unsure; the same key again shows it once."""
    card = await rig.chat.create_card(VIEW)

    async def send() -> MessageId:
        if method == "send_card":
            return await rig.chat.send_card(Target(rig.place), card, "k")
        return await rig.chat.send_text(Target(rig.place), "x", "k")

    rig.lose_answer(method)
    with pytest.raises(Transient) as caught:
        await send()
    assert caught.value.unsure
    await send()
    assert len(rig.shown()) == 1


async def test_a_stream_without_an_answer_is_unsure(rig: Rig) -> None:
    """A revision whose answer was lost may have been applied: a higher sequence goes through."""
    card = await rig.chat.create_card(VIEW)
    await rig.chat.send_card(Target(rig.place), card, "k")
    rig.lose_answer("stream")
    with pytest.raises(Transient) as caught:
        await rig.chat.stream(card, "text", "lost", 1)
    assert caught.value.unsure
    with pytest.raises(SequenceStale):
        await rig.chat.stream(card, "text", "lost", 1)
    await rig.chat.stream(card, "text", "next", 2)
    assert "next" in rig.shown()[0]
