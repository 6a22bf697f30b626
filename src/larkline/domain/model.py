"""Values of the main path: messages, turns, claims, replies and their parts.

Times are Unix seconds unless a name says otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NewType

ConversationId = NewType("ConversationId", str)
"""16 hex characters, made from app, chat and thread: see `Place.conversation`."""
MessageId = NewType("MessageId", str)
"""The platform's id of a message (`om_...`)."""
UserId = NewType("UserId", str)
"""The platform's id of a person inside our app (`ou_...`)."""
TurnId = NewType("TurnId", int)
"""Grows in store order."""
ReplyId = NewType("ReplyId", int)
SessionId = NewType("SessionId", str)
"""Claude's own session id, a UUID."""
CardId = NewType("CardId", str)

Language = Literal["zh", "en"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a conversation happens. `thread_id` is '' outside topics."""

    app_id: str
    chat_id: str
    thread_id: str = ""

    @property
    def conversation(self) -> ConversationId:
        """The same place always gives the same id, on every machine."""
        key = "\0".join((self.app_id, self.chat_id, self.thread_id))
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return ConversationId(digest[:16])


@dataclass(frozen=True, slots=True)
class Mention:
    """A person or bot named in a message; `key` is its placeholder in the text."""

    key: str
    user: UserId
    name: str


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message from a chat, normalised by the chat's codec.

    `kind` is the platform's type (`text`, `post`, `image`, ...). `text` is plain text or Markdown
    with the mentions' placeholders still in it; None for kinds that carry no text for us.
    """

    id: MessageId
    event_id: str
    place: Place
    private: bool
    sender: UserId
    kind: str
    text: str | None
    created_at: float
    mentions: tuple[Mention, ...] = ()
    parent_id: str = ""

    def prompt(self, bot: UserId | None) -> str:
        """The text with people's names for placeholders and without the bot's own mention."""
        text = self.text or ""
        # Longest key first: "@_user_1" is a prefix of "@_user_10".
        for mention in sorted(self.mentions, key=lambda each: -len(each.key)):
            text = text.replace(mention.key, "" if mention.user == bot else f"@{mention.name}")
        return text.strip()


@dataclass(frozen=True, slots=True)
class Click:
    """A click on a card's button. `value` is whatever the platform sent: an object or a string."""

    event_id: str
    sender: UserId
    chat_id: str
    message_id: MessageId
    value: Mapping[str, object] | str


@dataclass(frozen=True, slots=True)
class Malformed:
    """An event whose body could not be understood; kept as it came."""

    event_id: str
    body: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Uninteresting:
    """An event that is acknowledged and has no further effect."""

    event_type: str


ChatEvent = Inbound | Click | Malformed | Uninteresting


@dataclass(frozen=True, slots=True)
class Toast:
    """The answer to a click, shown for a moment by the platform's client."""

    text: str
    kind: Literal["info", "success", "warning", "error"] = "info"


class TurnKind(StrEnum):
    """What a turn does when its place in the order has come."""

    PROMPT = "prompt"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Turn:
    """One request to the agent. `prompt` may be empty for kinds other than PROMPT."""

    id: TurnId
    conversation: ConversationId
    place: Place
    private: bool
    message_id: MessageId
    sender: UserId
    kind: TurnKind
    prompt: str
    accepted_at: float


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn to be stored with its message."""

    kind: TurnKind
    prompt: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where a reply goes: a place, as an answer to `reply_to` ('' for a loose message)."""

    place: Place
    reply_to: str = ""


@dataclass(frozen=True, slots=True)
class NewNotice:
    """A short message of ours. `once`: a key under which it is stored at most once, ever."""

    target: Target
    text: str
    once: str | None = None


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """When `accept` refuses a turn. `in_flight` (queued and running) None: unbounded."""

    per_conversation: int
    total: int
    in_flight: int | None = None


class Standing(StrEnum):
    """What became of a message."""

    TURN = "turn"
    ANSWERED = "answered"
    HELD = "held"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What intake decided about a message, before the store has seen it.

    `turn` and `limits` go together; `busy` is the notice that replaces a turn when a limit is met.
    """

    standing: Standing
    turn: NewTurn | None = None
    limits: QueueLimits | None = None
    busy: NewNotice | None = None
    notice: NewNotice | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the store did. `fresh` is False for a message it had already judged."""

    fresh: bool
    standing: Standing
    turn: TurnId | None = None


class Again(StrEnum):
    """What became of the wish to send a turn again.

    DONE_BEFORE: it was copied before, or has not ended. UNKNOWN: not a turn of that chat.
    """

    QUEUED = "queued"
    DONE_BEFORE = "done_before"
    FULL = "full"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Copied:
    """What `again` did. `turn` is the copy; None unless it was queued."""

    became: Again
    turn: TurnId | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One platform message that shows a reply, or a page of it.

    `key` is the idempotency key of its creation; `reserved` the highest card `sequence` that may
    have been used; `send_began` when the sending was first tried (None: not yet).
    """

    reply: ReplyId
    ordinal: int
    page: int
    form: Literal["card", "text"]
    key: str
    card: CardId | None = None
    message: MessageId | None = None
    reserved: int = 0
    send_began: float | None = None
    state: Literal["live", "handed_over", "final"] = "live"


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a turn. Every later write names `epoch`.

    `session` is the agent session to continue; None starts a new one. `prompt_uuid` marks the
    prompt for the agent and is never used again. `reply` shows the turn.
    """

    turn: Turn
    epoch: int
    attempt: int
    prompt_uuid: str
    session: SessionId | None
    reply: ReplyId


class Ending(StrEnum):
    """How a turn ended: the classes that users, operators and metrics see."""

    ANSWERED = "answered"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    AUTHENTICATION = "authentication"
    BILLING = "billing"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    UPSTREAM = "upstream"
    UNREACHABLE = "unreachable"
    BAD_REQUEST = "bad_request"
    TOO_LONG = "too_long"
    NO_MODEL = "no_model"
    TURN_LIMIT = "turn_limit"
    BUDGET = "budget"
    NO_OUTPUT = "no_output"
    SILENT = "silent"
    TIMED_OUT = "timed_out"
    RESUME_FAILED = "resume_failed"
    AGENT_DIED = "agent_died"
    AGENT_UNSTARTABLE = "agent_unstartable"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the broker metered them, and the CLI's own cost estimate in US dollars."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Button:
    """A button on a card; `value` comes back in a `Click`."""

    label: str
    value: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Final:
    """What the chat shows for a turn in the end. `as_card` False: a plain text message."""

    text: str
    status: str = ""
    buttons: tuple[Button, ...] = ()
    as_card: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a turn, in one value.

    `keep_session` None leaves the conversation's session as it is; '' forgets it; an id stores it.
    `detail` is for operators: codes and ids, never prompt text or secrets.
    """

    ending: Ending
    final: Final
    keep_session: SessionId | Literal[""] | None = None
    detail: str = ""
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to be delivered: a turn's answer (`turn` set) or a notice (`turn` None)."""

    id: ReplyId
    conversation: ConversationId
    target: Target
    turn: TurnId | None
    final: Final
    parts: tuple[Part, ...]
    attempts: int
    due_at: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued turn that has not been told its position; `ahead` counts the turns before it."""

    turn: Turn
    ahead: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A stored conversation."""

    id: ConversationId
    place: Place
    private: bool
    session: SessionId | None
    last_active: float


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Turns by state, now."""

    queued: int
    running: int


@dataclass(frozen=True, slots=True)
class CardView:
    """What a card shows: Markdown `text`, a small `status` line under it, buttons.

    `live` cards stream; `summary` is the one-line preview in chat lists and notifications.
    """

    text: str
    status: str
    live: bool
    summary: str
    buttons: tuple[Button, ...] = ()


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message of ours that was found in a chat."""

    id: MessageId
    parent_id: str
    kind: str
    text: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Connection:
    """A chat connection as `/readyz` and `/metrics` show it. `reason` says why not connected."""

    connected: bool
    reason: str = ""
    bot: UserId | None = None
    reconnects: int = 0
