"""The SQLite queue against the reference in memory, under any order of calls and crashes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from store_kit import START, Clock, Lab, answer, message, note, turn

from larkline.domain.model import (
    Claim,
    MessageId,
    Place,
    QueueCounts,
    QueueLimits,
    Reply,
    Standing,
    TurnId,
    TurnKind,
    Verdict,
)
from larkline.ports import Store

T = TypeVar("T")
PLACES = [Place("cli_app", f"oc_{n}") for n in range(3)]
LIMITS = QueueLimits(per_conversation=4, total=8)


@dataclass
class Pair:
    """The same thing in both stores, under the ids of each."""

    memory: Claim
    sqlite: Claim


class Queue(RuleBasedStateMachine):
    """Both stores do the same, and what they do keeps the promises of the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(prefix="larkline-queue-")
        clock = Clock()
        self.labs = [Lab(kind, Path(self.folder.name), clock) for kind in ("memory", "sqlite")]
        self.clock = clock
        self.claims: list[Pair] = []
        # By conversation the turn that runs, as the memory store names it.
        self.running: dict[str, TurnId] = {}
        self.turns: dict[MessageId, list[tuple[TurnId, TurnId]]] = {}
        self.count = 0

    def run(self, work: Coroutine[object, object, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        self.memory: Store = self.run(self.labs[0].open())
        self.sqlite: Store = self.run(self.labs[1].open())

    def both(self, call: Callable[[Store], Coroutine[object, object, T]]) -> tuple[T, T]:
        return self.run(call(self.memory)), self.run(call(self.sqlite))

    @rule(
        place=st.sampled_from(PLACES),
        ages=st.lists(st.integers(0, 5), min_size=1, max_size=3),
        kind=st.sampled_from(list(TurnKind)),
        busy=st.booleans(),
    )
    def messages(self, place: Place, ages: list[int], kind: TurnKind, busy: bool) -> None:
        for age in ages:
            self.accept(place, age, kind, busy)

    def accept(self, place: Place, age: int, kind: TurnKind, busy: bool) -> None:
        self.count += 1
        name = f"{self.count:03d}"
        new = message(name, place, at=START - age)
        verdict = turn(name, kind=kind, limits=LIMITS, notice=note("hi", place) if busy else None)
        one, two = self.both(lambda store: store.accept(new, verdict))
        assert (one.fresh, one.standing) == (two.fresh, two.standing)
        if one.turn is not None and two.turn is not None:
            self.turns[new.id] = [(one.turn, two.turn)]
        assert (one.turn is None) == (two.turn is None) == (one.standing is Standing.REFUSED)

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def offer_again(self, data: st.DataObject) -> None:
        """The platform delivers twice."""
        known = data.draw(st.sampled_from(sorted(self.turns)))
        before = self.both(lambda store: store.counts())
        old = message(known.removeprefix("om_"))
        one, two = self.both(lambda store: store.accept(old, Verdict(Standing.ANSWERED)))
        assert not one.fresh
        assert not two.fresh
        assert self.both(lambda store: store.counts()) == before

    @rule()
    def take(self) -> None:
        self.start()

    def start(self) -> bool:
        one, two = self.both(lambda store: store.take())
        assert (one is None) == (two is None)
        if one is None or two is None:
            return False
        assert one.turn.message_id == two.turn.message_id
        assert (one.epoch, one.attempt, one.session) == (two.epoch, two.attempt, two.session)
        assert one.turn.conversation not in self.running, "two running turns in a conversation"
        self.running[one.turn.conversation] = one.turn.id
        self.claims.append(Pair(one, two))
        return True

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), session=st.sampled_from([None, "", "s-1", "s-2"]))
    def settle(self, data: st.DataObject, session: str | None) -> None:
        """Any claim that was ever given out, fenced ones and settled ones too."""
        self.end(data.draw(st.sampled_from(self.claims)), session)

    def end(self, pair: Pair, session: str | None) -> None:
        outcome = answer(f"{pair.memory.turn.message_id}/{pair.memory.epoch}", session=session)
        one = self.run(self.memory.settle(pair.memory, outcome))
        two = self.run(self.sqlite.settle(pair.sqlite, outcome))
        assert one == two
        newest = max(
            each.memory.epoch for each in self.claims if each.memory.turn.id == pair.memory.turn.id
        )
        assert one == (pair.memory.epoch == newest), "only the newest epoch settles"
        if one and self.running.get(pair.memory.turn.conversation) == pair.memory.turn.id:
            del self.running[pair.memory.turn.conversation]

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ids = [pair for pairs in self.turns.values() for pair in pairs]
        one, two = data.draw(st.sampled_from(ids))
        assert self.run(self.memory.cancel(one)) == self.run(self.sqlite.cancel(two))

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), with_notice=st.booleans())
    def announce(self, data: st.DataObject, with_notice: bool) -> None:
        known = data.draw(st.sampled_from(sorted(self.turns)))
        one, two = self.turns[known][-1]
        notice = note(f"position {known}", PLACES[0]) if with_notice else None
        self.run(self.memory.announce(one, notice))
        self.run(self.sqlite.announce(two, notice))

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), key=st.integers(0, 20), place=st.sampled_from(PLACES))
    def again(self, data: st.DataObject, key: int, place: Place) -> None:
        known = data.draw(st.sampled_from(sorted(self.turns)))
        one, two = self.turns[known][-1]
        copy_one = self.run(self.memory.again(one, str(key), place.chat_id, LIMITS))
        copy_two = self.run(self.sqlite.again(two, str(key), place.chat_id, LIMITS))
        assert copy_one.became == copy_two.became
        assert (copy_one.turn is None) == (copy_two.turn is None)
        if copy_one.turn is not None and copy_two.turn is not None:
            self.turns[known].append((copy_one.turn, copy_two.turn))

    @rule()
    def crash(self) -> None:
        """The process is gone and comes back: everything that ran is claimed anew."""
        self.both(lambda store: store.close())
        self.begin()
        one, two = self.both(lambda store: store.orphans())
        assert sorted(each.turn.id for each in one) == sorted(self.running.values())
        assert [each.turn.message_id for each in one] == [each.turn.message_id for each in two]
        self.claims += [Pair(a, b) for a, b in zip(one, two, strict=True)]

    @rule(data=st.data(), then=st.sampled_from(["deliver", "postpone", "give up", "look"]))
    def deliver(self, data: st.DataObject, then: str) -> None:
        one, two = self.both(lambda store: store.due(self.clock.now, 100))
        assert [self.seen(each) for each in one] == [self.seen(each) for each in two]
        assert len({each.conversation for each in one}) == len(one)
        if not one:
            return
        n = data.draw(st.integers(0, len(one) - 1))
        for store, reply in ((self.memory, one[n]), (self.sqlite, two[n])):
            if then == "deliver":
                self.run(store.delivered(reply.id))
            elif then == "postpone":
                self.run(store.postpone(reply.id, self.clock.now + 10, "later"))
            elif then == "give up":
                self.run(store.give_up(reply.id, "never"))

    @staticmethod
    def seen(reply: Reply) -> tuple[object, ...]:
        return (reply.final, reply.target, reply.attempts, reply.turn is None, len(reply.parts))

    @rule(seconds=st.sampled_from([-3600.0, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def look(self) -> None:
        """Everything that can be read is the same."""
        one, two = self.both(lambda store: store.waiting(100))
        assert [(each.turn.message_id, each.ahead) for each in one] == [
            (each.turn.message_id, each.ahead) for each in two
        ]
        counts, same = self.both(lambda store: store.counts())
        assert counts == same
        assert counts.running == len(self.running)
        times, as_well = self.both(lambda store: store.next_due(self.clock.now))
        assert times == as_well
        for place in PLACES:
            known, too = self.both(lambda store, p=place: store.conversation(p.conversation))  # type: ignore[misc]
            assert known == too

    def drain(self) -> None:
        """Everything that waits is taken in the same order, and everything due delivered so."""
        for pair in list(self.claims):
            self.end(pair, None)
        while self.start():
            self.end(self.claims[-1], None)
        assert self.both(lambda store: store.counts()) == (QueueCounts(0, 0), QueueCounts(0, 0))
        late = self.clock.now + 10_000
        while True:
            one, two = self.both(lambda store: store.due(late, 1))
            assert [self.seen(each) for each in one] == [self.seen(each) for each in two]
            if not one:
                break
            self.run(self.memory.delivered(one[0].id))
            self.run(self.sqlite.delivered(two[0].id))

    def teardown(self) -> None:
        if hasattr(self, "sqlite"):
            self.look()
            self.drain()
            self.both(lambda store: store.close())
        self.runner.close()
        self.folder.cleanup()


TestQueue = Queue.TestCase
TestQueue.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
