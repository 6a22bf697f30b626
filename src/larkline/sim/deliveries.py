"""Getting events to the app: one random connection, three seconds, then the ladder."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from larkline.sim.clock import SimClock, Timer
from larkline.sim.events import envelope
from larkline.sim.faults import Faults
from larkline.sim.variants import Variants
from larkline.sim.world import App, stable_id

Json = dict[str, Any]

ACK_SECONDS = 3.0
LADDER = (15.0, 300.0, 3600.0, 21600.0)
PATIENCE = 0.3
KEPT = 100_000


@dataclass(slots=True)
class Push:
    """One try: when it left, when the ack came (both Unix seconds), its code and answer."""

    at: float
    seq_id: int
    connection: str
    acked_at: float | None = None
    code: int | None = None
    answer: Json | None = None
    bad_answer: bool = False
    late: bool = False

    @property
    def ack_seconds(self) -> float | None:
        """From push to ack."""
        return None if self.acked_at is None else self.acked_at - self.at


@dataclass(slots=True)
class Delivery:
    """One event and all tries to deliver it; `done` is set when no more will follow."""

    app_id: str
    event_id: str
    event_type: str
    subject: str
    body: bytes
    retry: bool
    state: Literal["held", "pending", "acked", "given_up"] = "pending"
    pushes: list[Push] = field(default_factory=list)
    rung: int = 0
    timer: Timer | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    first_answer: asyncio.Event = field(default_factory=asyncio.Event)


class Connection(Protocol):
    """What deliveries need of a long connection."""

    name: str

    def send_event(self, delivery: Delivery, push: Push) -> None:
        """Queue the event's frames; never blocks."""


class Deliveries:
    """All events of all apps. `route` picks the connections of an app."""

    def __init__(
        self,
        clock: SimClock,
        faults: Faults,
        variants: Variants,
        rng: random.Random,
        route: Callable[[str], list[Connection]],
        changed: Callable[[str, str], None],
    ) -> None:
        self.all: deque[Delivery] = deque(maxlen=KEPT)
        self.unmatched_acks = 0
        self._clock = clock
        self._faults = faults
        self._variants = variants
        self._rng = rng
        self._route = route
        self._changed = changed
        self._waiting: dict[int, tuple[Delivery, Push]] = {}
        self._seq = 0
        self._count = 0
        self._held: list[Delivery] | None = None

    def submit(
        self, app: App, event_type: str, event: Json, *, subject: str = "", retry: bool = True
    ) -> Delivery:
        """Push an event and see it through; returns at once."""
        self._count += 1
        now = self._clock.now()
        event_id = stable_id("", app.app_id, event_type, subject, str(self._count), str(now))
        body = envelope(app, event_id, event_type, now, event)
        return self.submit_body(app, event_id, event_type, body, subject=subject, retry=retry)

    def submit_body(
        self,
        app: App,
        event_id: str,
        event_type: str,
        body: bytes,
        *,
        subject: str = "",
        retry: bool = True,
    ) -> Delivery:
        """Push any bytes as an event, well-formed or not."""
        delivery = Delivery(app.app_id, event_id, event_type, subject, body, retry)
        self.all.append(delivery)
        if self._held is not None:
            delivery.state = "held"
            self._held.append(delivery)
        else:
            self._start(delivery)
        return delivery

    def hold(self) -> None:
        """Keep new events back until `release`."""
        if self._held is None:
            self._held = []

    def release(self, *, shuffle: bool = False, copies: int = 1) -> None:
        """Push what was held, each `copies` times, shuffled by the platform's seed if asked."""
        held, self._held = self._held or [], None
        order = [delivery for delivery in held for _ in range(copies)]
        if shuffle:
            self._rng.shuffle(order)
        for delivery in order:
            if delivery.state == "held":
                self._start(delivery)
            else:
                self._push(delivery, timed=False)

    def push_again(self, delivery: Delivery) -> None:
        """One more copy, outside the ladder."""
        self._push(delivery, timed=False)

    def acked(self, seq_id: int, payload: bytes) -> bool:
        """An ack frame came in; false when it belongs to no push."""
        if self._faults.ignore_acks > 0:
            self._faults.ignore_acks -= 1
            self._changed("ack", "")
            return True
        if self._faults.ack_delay > 0:
            delay = self._faults.ack_delay
            self._clock.call_later(delay, lambda: self._accept_late(seq_id, payload))
            return seq_id in self._waiting
        return self._accept(seq_id, payload)

    def close(self) -> None:
        """Stop every timer."""
        for delivery in self.all:
            if delivery.timer is not None:
                delivery.timer.cancel()

    def _start(self, delivery: Delivery) -> None:
        delivery.state = "pending"
        self._push(delivery, timed=True)
        for _ in range(self._faults.duplicates):
            self._push(delivery, timed=False)

    def _push(self, delivery: Delivery, *, timed: bool) -> None:
        connections = self._route(delivery.app_id)
        if timed and delivery.timer is not None:
            delivery.timer.cancel()
        if not connections:
            if self._variants.events_while_offline == "lost":
                self._give_up(delivery)
            elif timed:
                self._climb(delivery)
            return
        connection = self._rng.choice(connections)
        self._seq += 1
        push = Push(self._clock.now(), self._seq, connection.name)
        delivery.pushes.append(push)
        self._waiting[push.seq_id] = (delivery, push)
        if timed:
            delivery.timer = self._clock.call_later(
                ACK_SECONDS, lambda: self._overdue(delivery, push), patience=PATIENCE
            )
        connection.send_event(delivery, push)
        self._changed("delivery", delivery.event_id)

    def _accept_late(self, seq_id: int, payload: bytes) -> None:
        self._accept(seq_id, payload)

    def _accept(self, seq_id: int, payload: bytes) -> bool:
        known = self._waiting.pop(seq_id, None)
        if known is None:
            self.unmatched_acks += 1
            return False
        delivery, push = known
        push.acked_at = self._clock.now()
        push.code, push.answer, push.bad_answer = _read_ack(payload)
        push.late = push.acked_at - push.at > ACK_SECONDS
        self._settle(delivery, push)
        self._changed("delivery", delivery.event_id)
        return True

    def _settle(self, delivery: Delivery, push: Push) -> None:
        """Draw the conclusion from an ack."""
        if delivery.state != "pending" or push.late:
            return
        if delivery.timer is not None:
            delivery.timer.cancel()
        if push.code == 200:
            delivery.state = "acked"
            delivery.first_answer.set()
            delivery.done.set()
        else:
            self._climb(delivery)

    def _overdue(self, delivery: Delivery, push: Push) -> None:
        if delivery.state == "pending" and push.acked_at is None:
            self._climb(delivery)

    def _climb(self, delivery: Delivery) -> None:
        """The try failed: plan the next rung, or end."""
        delivery.first_answer.set()
        if not delivery.retry or delivery.rung >= len(LADDER):
            self._give_up(delivery)
            return
        wait = LADDER[delivery.rung]
        delivery.rung += 1
        delivery.timer = self._clock.call_later(wait, lambda: self._push(delivery, timed=True))

    def _give_up(self, delivery: Delivery) -> None:
        delivery.state = "given_up"
        delivery.first_answer.set()
        delivery.done.set()
        self._changed("delivery", delivery.event_id)


def _read_ack(payload: bytes) -> tuple[int, Json | None, bool]:
    """Code, decoded answer and whether something in it could not be read."""
    try:
        ack = json.loads(payload)
        code = int(ack["code"])
        data = ack.get("data")
        if not data:
            return code, None, False
        answer = json.loads(base64.b64decode(data, validate=True))
    except (ValueError, KeyError, TypeError):
        return 500, None, True
    if not isinstance(answer, dict):
        return code, None, answer is not None
    return code, answer, False
