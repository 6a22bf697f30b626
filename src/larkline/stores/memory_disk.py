"""What a `MemoryStore` keeps, and its transcripts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from larkline.domain.errors import StoreError
from larkline.domain.model import (
    Conversation,
    ConversationId,
    Inbound,
    Malformed,
    MessageId,
    Part,
    Reply,
    ReplyId,
    SessionId,
    Standing,
    Turn,
    TurnId,
)
from larkline.ports import TranscriptKey


@dataclass(slots=True)
class MessageRow:
    """A judged or held message."""

    standing: Standing
    accepted_at: float
    inbound: Inbound
    turn: TurnId | None = None


@dataclass(slots=True)
class TurnRow:
    """A turn and where it stands."""

    turn: Turn
    created_at: float
    state: str = "queued"
    epoch: int = 0
    attempts: int = 0
    owner: str = ""
    announced: bool = False
    copied: bool = False
    ended_at: float | None = None
    reply: ReplyId | None = None

    @property
    def place_in_line(self) -> tuple[float, str, int]:
        """The order inside a conversation."""
        return (self.created_at, self.turn.message_id, self.turn.id)


@dataclass(slots=True)
class ReplyRow:
    """A reply and where it stands."""

    reply: Reply
    state: str
    order: int = 0
    next_at: float | None = None
    settled_at: float | None = None


@dataclass(slots=True)
class Disk:
    """What outlives a `MemoryStore`: give it to the next one to play a restart."""

    messages: dict[MessageId, MessageRow] = field(default_factory=dict)
    turns: dict[TurnId, TurnRow] = field(default_factory=dict)
    replies: dict[ReplyId, ReplyRow] = field(default_factory=dict)
    parts: dict[ReplyId, dict[int, Part]] = field(default_factory=dict)
    conversations: dict[ConversationId, Conversation] = field(default_factory=dict)
    # Entries are kept as JSON, so that nobody shares a dict with the store.
    transcripts: dict[TranscriptKey, list[str]] = field(default_factory=dict)
    grew_at: dict[TranscriptKey, float] = field(default_factory=dict)
    raw_events: dict[str | bytes, tuple[float, Malformed]] = field(default_factory=dict)
    notice_keys: set[str] = field(default_factory=set)
    copy_keys: set[str] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class MemoryTranscripts:
    """`larkline.ports.Transcripts` over a `Disk`."""

    def __init__(self, disk: Disk, clock: Callable[[], float]) -> None:
        self._disk = disk
        self._clock = clock
        self._closed = False

    @property
    def _open(self) -> Disk:
        if self._closed:
            raise StoreError("the store is closed")
        return self._disk

    async def append(self, key: TranscriptKey, entries: Sequence[Mapping[str, object]]) -> None:
        """See `Transcripts.append`."""
        disk = self._open
        if not entries:
            return
        kept = disk.transcripts.setdefault(key, [])
        seen = {json.loads(each).get("uuid") for each in kept} - {None, ""}
        for entry in entries:
            own = entry.get("uuid")
            if own not in seen:
                kept.append(json.dumps(dict(entry)))
            if isinstance(own, str) and own:
                seen.add(own)
        disk.grew_at[key] = self._clock()

    async def load(self, key: TranscriptKey) -> list[dict[str, object]] | None:
        """See `Transcripts.load`."""
        kept = self._open.transcripts.get(key)
        return None if kept is None else [json.loads(each) for each in kept]

    async def sessions(self, project: str) -> list[tuple[SessionId, float]]:
        """See `Transcripts.sessions`."""
        found = [
            (SessionId(session), grew_at)
            for (owner, session, subpath), grew_at in self._open.grew_at.items()
            if owner == project and subpath == ""
        ]
        return sorted(found, key=lambda each: -each[1])

    async def subpaths(self, project: str, session: SessionId) -> list[str]:
        """See `Transcripts.subpaths`."""
        keys = self._open.transcripts
        return sorted(sub for p, s, sub in keys if (p, s) == (project, session) and sub != "")

    async def delete(self, key: TranscriptKey) -> None:
        """See `Transcripts.delete`."""
        disk = self._open
        for known in list(disk.transcripts):
            if known == key or (key[2] == "" and known[:2] == key[:2]):
                del disk.transcripts[known], disk.grew_at[known]

    def _prune_transcripts(self, before: float) -> int:
        grew_at = self._disk.grew_at
        young = {key[:2] for key, at in grew_at.items() if at >= before}
        old = [key for key in grew_at if key[:2] not in young]
        for key in old:
            del grew_at[key], self._disk.transcripts[key]
        return len(old)
