from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from feishu_kit import Inbox, running_chat, until
from structlog.testing import capture_logs

from larkline.domain.model import (
    Button,
    CardView,
    ChatEvent,
    Inbound,
    Malformed,
    Place,
    Target,
    Toast,
    Uninteresting,
)
from larkline.sim.people import Click
from larkline.sim.platform import Platform


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    async with Platform() as started:
        yield started


async def test_a_message_comes_in_and_is_acknowledged_after_receive(platform: Platform) -> None:
    """The acknowledgement leaves only once `receive` has returned; then with code 200."""
    gate = asyncio.Event()

    async def hold(_: ChatEvent) -> None:
        await gate.wait()

    inbox = Inbox(answer=hold)
    async with running_chat(platform.domain, inbox) as chat:
        await platform.connected()
        sent = platform.people.send(platform.users[0], "hello")
        await inbox.until(1)
        assert sent.delivery is not None
        assert sent.delivery.pushes[0].acked_at is None
        gate.set()
        await platform.until(lambda: sent.delivery is not None and sent.delivery.state == "acked")
        assert sent.delivery.pushes[0].code == 200
        event = inbox.events[0]
        assert isinstance(event, Inbound)
        assert (event.text, event.private) == ("hello", True)
        assert event.sender == platform.open_id(platform.users[0])
        assert event.place.chat_id == platform.p2p(platform.users[0]).chat_id
        await until(lambda: chat.connection().bot is not None)
        assert chat.connection().bot == platform.app.open_id
    assert platform.connections.malformed == []


async def test_fragments_are_joined(platform: Platform) -> None:
    """An event in many frames arrives once, whole, and is acknowledged once."""
    platform.faults.fragment_bytes = 64
    inbox = Inbox()
    async with running_chat(platform.domain, inbox):
        await platform.connected()
        sent = platform.people.send(platform.users[0], "long " * 500)
        await platform.until(lambda: sent.delivery is not None and sent.delivery.state == "acked")
    assert [event.text for event in inbox.events if isinstance(event, Inbound)] == [("long " * 500)]
    assert platform.connections.malformed == []


async def test_what_was_not_stored_is_delivered_again(platform: Platform) -> None:
    """A `receive` that raises is answered with 500; the platform comes back with the event."""

    async def fail_once(_: ChatEvent) -> None:
        if len(inbox.events) == 1:
            raise RuntimeError("store full")

    inbox = Inbox(answer=fail_once)
    with capture_logs() as lines:
        await _delivered_again(platform, inbox)
    assert any(line["log_level"] == "error" for line in lines)


async def _delivered_again(platform: Platform, inbox: Inbox) -> None:
    async with running_chat(platform.domain, inbox, slack=9.0):
        await platform.connected()
        sent = platform.people.send(platform.users[0], "again")
        assert sent.delivery is not None
        delivery = sent.delivery
        await platform.until(lambda: delivery.pushes[0].code == 500)
        await platform.clock.advance(16)
        await platform.until(lambda: delivery.state == "acked")
    assert [push.code for push in delivery.pushes] == [500, 200]
    first, second = inbox.events
    assert isinstance(first, Inbound)
    assert isinstance(second, Inbound)
    assert first.id == second.id


async def test_a_receive_that_hangs_is_given_up(platform: Platform) -> None:
    """Storing has a deadline; after it the platform is told to come again."""

    async def hang(_: ChatEvent) -> None:
        await asyncio.Event().wait()

    inbox = Inbox(answer=hang)
    async with running_chat(platform.domain, inbox, event=0.2):
        await platform.connected()
        sent = platform.people.send(platform.users[0], "x")
        assert sent.delivery is not None
        delivery = sent.delivery
        await platform.until(lambda: delivery.pushes[0].code == 500)


async def _pressed(platform: Platform, inbox: Inbox, **bounds: object) -> Click:
    """Show a card with a button and press it."""
    async with running_chat(platform.domain, inbox, **bounds) as chat:
        await platform.connected()
        view = CardView("text", "", False, "s", (Button("Stop", {"act": "stop"}),))
        chat_id = platform.p2p(platform.users[0]).chat_id
        card = await chat.create_card(view)
        shown = await chat.send_card(Target(Place(platform.app.app_id, chat_id)), card, "k")
        return await platform.people.click(platform.users[0], str(shown), label="Stop")


async def test_a_click_is_answered_with_a_toast(platform: Platform) -> None:
    """What `receive` returns for a click is shown to the one who clicked."""
    done = await _pressed(platform, Inbox())
    assert (done.code, done.toast) == (0, {"type": "success", "content": "done"})


async def test_a_click_without_a_toast_is_fine(platform: Platform) -> None:
    """A click that needs no answer is acknowledged in a form the platform takes."""

    async def quiet(_: ChatEvent) -> Toast | None:
        return None

    done = await _pressed(platform, Inbox(answer=quiet))
    assert (done.code, done.toast) == (0, None)


async def test_a_slow_click_is_answered_in_time(platform: Platform) -> None:
    """A click whose handling takes too long is refused by us before the platform gives up."""

    async def hang(_: ChatEvent) -> Toast | None:
        await asyncio.Event().wait()
        return None

    assert (await _pressed(platform, Inbox(answer=hang), click=0.2)).code == 200671


async def test_unknown_and_malformed_events_are_acknowledged(platform: Platform) -> None:
    """Event types we don't know and bodies we can't read end with code 200."""
    inbox = Inbox()
    async with running_chat(platform.domain, inbox):
        await platform.connected()
        entered = platform.people.enter(platform.users[0])
        broken = platform.people.send_raw(platform.users[0], "text", "{no json").delivery
        assert broken is not None
        await platform.until(lambda: entered.state == "acked" and broken.state == "acked")
        assert (entered.pushes[0].code, broken.pushes[0].code) == (200, 200)
    kinds = {type(event) for event in inbox.events}
    assert kinds == {Uninteresting, Malformed}


async def test_too_many_events_wait_in_the_socket(platform: Platform) -> None:
    """Only so many are handled at once; the rest wait without loss and without a reconnect."""
    running_now, most = 0, 0
    gate = asyncio.Event()

    async def hold(_: ChatEvent) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await gate.wait()
        running_now -= 1

    inbox = Inbox(answer=hold)
    async with running_chat(platform.domain, inbox, in_flight=2, slack=0.1) as chat:
        await platform.connected()
        sent = [platform.people.send(platform.users[0], f"{n}").delivery for n in range(6)]
        await inbox.until(2)
        # Longer than two pings and the slack: our own silence is not the platform's.
        await asyncio.sleep(0.5)
        assert len(inbox.events) == 2
        gate.set()
        await platform.until(lambda: all(each and each.state == "acked" for each in sent))
        assert chat.connection().reconnects == 0
    assert most == 2
