"""Both stores behind one handle, a clock that tests set, and values to put in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from larkline.domain.model import (
    Ending,
    Final,
    Inbound,
    MessageId,
    NewNotice,
    NewTurn,
    Outcome,
    Place,
    QueueLimits,
    Standing,
    Target,
    TurnKind,
    UserId,
    Verdict,
)
from larkline.ports import Store
from larkline.stores.memory import MemoryStore
from larkline.stores.memory_disk import Disk
from larkline.stores.sqlite import open_sqlite

START = 1_800_000_000.0
ROOMY = QueueLimits(per_conversation=1000, total=1000)
HERE = Place("cli_app", "oc_here")
THERE = Place("cli_app", "oc_there")


@dataclass
class Clock:
    """Unix seconds that only a test moves."""

    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Lab:
    """A store of one kind that can be started again over what it kept."""

    kind: str
    folder: Path
    clock: Clock = field(default_factory=Clock)
    disk: Disk = field(default_factory=Disk)

    async def open(self) -> Store:
        """A store over what the last one left."""
        if self.kind == "memory":
            return MemoryStore(self.disk, clock=self.clock)
        return await open_sqlite(self.folder / "larkline.db", clock=self.clock)


def message(
    name: str,
    place: Place = HERE,
    *,
    at: float = START,
    text: str | None = "hello",
) -> Inbound:
    """A message `om_<name>`."""
    return Inbound(
        id=MessageId(f"om_{name}"),
        event_id=f"ev_{name}",
        place=place,
        private=place == HERE,
        sender=UserId("ou_ann"),
        kind="text",
        text=text,
        created_at=at,
    )


def turn(
    prompt: str = "hello",
    *,
    kind: TurnKind = TurnKind.PROMPT,
    limits: QueueLimits = ROOMY,
    notice: NewNotice | None = None,
) -> Verdict:
    """The verdict that a message becomes a turn."""
    return Verdict(Standing.TURN, NewTurn(kind, prompt), limits, note("busy"), notice)


def note(
    text: str, place: Place = HERE, *, reply_to: str = "", once: str | None = None
) -> NewNotice:
    """A notice."""
    return NewNotice(Target(place, reply_to), text, once)


def answer(text: str = "done", *, session: str | None = None) -> Outcome:
    """A good outcome."""
    return Outcome(Ending.ANSWERED, Final(text), keep_session=session)  # type: ignore[arg-type]
