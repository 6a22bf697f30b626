"""What starts when: order, limit, positions, stop and drain."""

from __future__ import annotations

import asyncio
from typing import Any

from stage_kit import answers, message, scheduling, until

from larkline.domain.errors import StoreError
from larkline.domain.model import (
    Claim,
    Ending,
    Final,
    NewNotice,
    NewTurn,
    Outcome,
    QueueLimits,
    Standing,
    Target,
    TurnKind,
    Verdict,
)
from larkline.stores.memory import MemoryStore


def prompt(text: str = "hello", limits: QueueLimits | None = None) -> Verdict:
    return Verdict(Standing.TURN, turn=NewTurn(TurnKind.PROMPT, text), limits=limits)


class Gate:
    """Turns that run until they are let go; remembers who ran beside whom."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.running: set[str] = set()
        self.most = 0
        self.free = asyncio.Event()
        self.reasons: list[Ending] = []

    async def run(self, claim: Claim, stop: asyncio.Future[Ending]) -> Outcome:
        assert claim.turn.conversation not in self.running
        self.running.add(claim.turn.conversation)
        self.most = max(self.most, len(self.running))
        self.order.append(claim.turn.prompt)
        try:
            free = asyncio.ensure_future(self.free.wait())
            either: set[asyncio.Future[Any]] = {free, stop}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            free.cancel()
        finally:
            self.running.discard(claim.turn.conversation)
        if stop.done():
            self.reasons.append(stop.result())
            return Outcome(stop.result(), Final("ended early"))
        return Outcome(Ending.ANSWERED, Final("done"))


async def settled(store: MemoryStore) -> bool:
    counts = await store.counts()
    return counts.queued == 0 and counts.running == 0


async def test_one_turn_of_a_conversation_at_a_time_in_order() -> None:
    """Five chats with four messages each: never two of one chat at once, each chat in order."""
    store, gate = MemoryStore(), Gate()
    gate.free.set()
    for n in range(4):
        for chat in range(5):
            await store.accept(message(chat=f"oc_{chat}"), prompt(f"{chat}.{n}"))
    async with scheduling(store, gate.run):
        await until(lambda: settled(store))
    for chat in range(5):
        mine = [each for each in gate.order if each.startswith(f"{chat}.")]
        assert mine == [f"{chat}.{n}" for n in range(4)]


async def test_never_more_than_the_limit_and_a_lower_limit_kills_nothing() -> None:
    """The limit is obeyed when it changes while turns run."""
    store, gate = MemoryStore(), Gate()
    limit = 3
    for chat in range(8):
        await store.accept(message(chat=f"oc_{chat}"), prompt())
    async with scheduling(store, gate.run, limit=lambda: limit) as scheduler:
        await until(lambda: asyncio.sleep(0, scheduler.running == 3))
        assert gate.most == 3
        limit = 1
        scheduler.wake()
        assert scheduler.running == 3
        gate.free.set()
        await until(lambda: settled(store))
    assert gate.most == 3


async def test_stop_ends_the_running_turn_and_waiting_ones_stay() -> None:
    """/stop reaches only the conversation's running turn; the next one then starts."""
    store, gate = MemoryStore(), Gate()
    first, second, other = message(), message(), message(chat="oc_2")
    for each, words in ((first, "first"), (second, "second"), (other, "other")):
        await store.accept(each, prompt(words))
    async with scheduling(store, gate.run) as scheduler:
        await until(lambda: asyncio.sleep(0, scheduler.running == 2))
        assert scheduler.stop(first.place.conversation)
        await until(lambda: asyncio.sleep(0, "second" in gate.order))
        assert gate.reasons == [Ending.STOPPED]
        gate.free.set()
        await until(lambda: settled(store))
        assert not scheduler.stop(first.place.conversation)


async def test_waiting_turns_are_told_their_position_once_a_minute() -> None:
    """After a second of waiting one notice a conversation and minute says how many are ahead."""
    now = 1000.0
    store, gate = MemoryStore(clock=lambda: now), Gate()
    async with scheduling(store, gate.run, limit=lambda: 1, clock=lambda: now) as scheduler:
        for chat, words in (("oc_1", "a"), ("oc_1", "b"), ("oc_1", "c"), ("oc_2", "d")):
            await store.accept(message(chat=chat), prompt(words))
        scheduler.wake()
        await until(lambda: asyncio.sleep(0, scheduler.running == 1))
        await asyncio.sleep(0.01)
        assert await answers(store) == []
        now += 1.5
        scheduler.wake()

        async def two_told() -> bool:
            return len(await answers(store)) == 2

        await until(two_told)
        told = {reply.target.place.chat_id: reply.final.text for reply in await answers(store)}
        assert "1 ahead" in told["oc_1"]
        assert "2 ahead" in told["oc_2"]  # b and c wait before it
        assert await store.waiting(10) == ()
        gate.free.set()
        await until(lambda: settled(store))


async def test_drain_waits_then_interrupts_and_starts_nothing_more() -> None:
    """Running turns get the time, then are asked to end; queued ones stay queued."""
    store, gate = MemoryStore(), Gate()
    await store.accept(message(), prompt("running"))
    await store.accept(message(), prompt("queued"))
    async with scheduling(store, gate.run, drain_seconds=0.05) as scheduler:
        await until(lambda: asyncio.sleep(0, scheduler.running == 1))
    assert gate.order == ["running"]
    assert gate.reasons == [Ending.INTERRUPTED]
    counts = await store.counts()
    assert (counts.queued, counts.running) == (1, 0)


async def test_settling_goes_on_until_the_store_takes_it() -> None:
    """A store that fails for a while loses no outcome and starts no turn twice."""

    class Flaky(MemoryStore):
        failures = 2

        async def settle(self, claim: Claim, outcome: Outcome) -> bool:
            if self.failures:
                self.failures -= 1
                raise StoreError("disk full")
            return await super().settle(claim, outcome)

    store, gate = Flaky(), Gate()
    gate.free.set()
    await store.accept(message(), prompt("once"))
    async with scheduling(store, gate.run):
        await until(lambda: settled(store))
    assert gate.order == ["once"]
    assert [reply.final.text for reply in await answers(store)] == ["done"]


async def test_a_full_queue_refuses_with_a_notice() -> None:
    """With `reject` the sixth message is answered and never becomes a turn."""
    store = MemoryStore()
    limits = QueueLimits(per_conversation=20, total=500, in_flight=5)
    for chat in range(5):
        accepted = await store.accept(message(chat=f"oc_{chat}"), prompt(limits=limits))
        assert accepted.standing is Standing.TURN
    sixth = message(chat="oc_6")
    busy = NewNotice(Target(sixth.place, sixth.id), "busy")
    verdict = Verdict(Standing.TURN, turn=NewTurn(TurnKind.PROMPT, "x"), limits=limits, busy=busy)
    assert (await store.accept(sixth, verdict)).standing is Standing.REFUSED
    assert [reply.final.text for reply in await answers(store)] == ["busy"]


async def test_late_messages_start_in_the_order_in_which_they_were_written() -> None:
    """After an outage the newest may come first: starts wait a moment, then go by age."""
    store, gate = MemoryStore(), Gate()
    gate.free.set()
    async with scheduling(store, gate.run) as scheduler:
        for age in (3, 1, 2):
            scheduler.settle_in()
            await store.accept(message(created_at=float(age)), prompt(str(age)))
            scheduler.wake()
            await asyncio.sleep(0.02)
        await until(lambda: settled(store))
    assert gate.order == ["1", "2", "3"]
