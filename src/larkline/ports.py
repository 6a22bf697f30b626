"""The three places where the world varies: chat, agent, store. Each has two implementations.

A docstring here is a contract; each sentence has a contract test that runs over every
implementation. Errors are those of `larkline.domain.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from larkline.domain.events import AgentEvent
from larkline.domain.model import (
    Accepted,
    CardId,
    CardView,
    ChatEvent,
    Claim,
    Connection,
    Conversation,
    ConversationId,
    Copied,
    Inbound,
    Malformed,
    MessageId,
    NewNotice,
    Outcome,
    Part,
    QueueCounts,
    QueueLimits,
    Reply,
    ReplyId,
    SentMessage,
    SessionId,
    Target,
    Toast,
    TurnId,
    Usage,
    Verdict,
    Waiting,
)

Receive = Callable[[ChatEvent], Awaitable[Toast | None]]
"""Takes an event and returns once it is durable; then, and only then, the chat acknowledges it.

A raised exception means: not stored, let the platform deliver again.
"""

CardField = Literal["text", "status"]


class Chat(Protocol):
    """A chat platform."""

    async def run(self, receive: Receive) -> None:
        """Keep the connection and hand every event to `receive`; ends only when cancelled.

        The bot's own id is learnt meanwhile; `connection().bot` has it from then on.

        Survives every refusal of the platform; `connection()` tells the reason meanwhile.
        Events of types we don't know are acknowledged.
        """

    def connection(self) -> Connection:
        """The state now; never blocks."""

    def pages(self, text: str) -> tuple[str, ...]:
        """Cut a Markdown text into pieces that one card each can show; at least one piece.

        Pure. A longer text that begins with `text` keeps all pieces but the last. Code blocks are
        closed and opened again, a table that is cut repeats its head; else only white space at the
        cuts is lost.
        """

    async def create_card(self, view: CardView) -> CardId:
        """Make a card that no chat shows yet. Not idempotent; an unused card does no harm.

        Raises: ContentRefused, Transient, Permanent.
        """

    async def send_card(self, target: Target, card: CardId, key: str) -> MessageId:
        """Show a card in a chat; the same `key` within an hour shows it once.

        Raises: TargetGone, ChatGone, ContentRefused, Transient (perhaps unsure), Permanent.
        """

    async def stream(self, card: CardId, field: CardField, text: str, sequence: int) -> None:
        """Set one field of a live card; `sequence` is higher than in every call before.

        Raises: StreamClosed, SequenceStale, ContentRefused, Transient (perhaps unsure), Permanent.
        """

    async def replace_card(self, card: CardId, view: CardView, sequence: int) -> None:
        """Set the whole card; a view that is not live ends the streaming.

        May use `sequence` and `sequence + 1`. Raises: as `stream`, without StreamClosed.
        """

    async def send_text(self, target: Target, text: str, key: str) -> MessageId:
        """Send plain text, cut to the platform's limit; idempotent by `key` for an hour.

        Raises: TargetGone, ChatGone, Transient (perhaps unsure), Permanent.
        """

    async def sent_since(self, target: Target, since: float) -> tuple[SentMessage, ...]:
        """Our own messages in the target's chat since then, oldest first.

        Raises: ChatGone, Transient, Permanent.
        """


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What an agent process is started with. `resume` None begins a new session."""

    conversation: ConversationId
    resume: SessionId | None


class Agent(Protocol):
    """One live agent process, bound to one conversation and one session."""

    @property
    def session(self) -> SessionId:
        """The session that turns are written to."""

    @property
    def alive(self) -> bool:
        """False once the process is known to be gone or the agent was closed."""

    @property
    def pid(self) -> int | None:
        """The root of the process tree as the kernel of the host sees it; None if there is none."""

    def turn(self, prompt: str, prompt_uuid: str) -> AsyncGenerator[AgentEvent, None]:
        """Run one turn; the last event is `Ended`. One turn at a time.

        Raises: AgentDiedError when no result will come. A consumer that stops reading must
        `close` the agent: a turn is never left half read.
        """

    def usage(self) -> Usage:
        """What the last turn used, as far as known."""

    def last_failure(self) -> ModelFailure | None:
        """The last failed model call of the current turn, as seen on the wire; None if none."""

    async def interrupt(self) -> None:
        """Ask the running turn to end; its `Ended` event follows. No-op when idle. Bounded."""

    async def close(self) -> None:
        """End the process and everything it started; repeatable; returns when all are gone.

        Finishes also when the caller is cancelled.
        """


@dataclass(frozen=True, slots=True)
class ModelFailure:
    """A model call that failed, as the broker saw it. `status` None: no HTTP answer."""

    status: int | None
    retry_after: float | None
    silent: bool = False


class AgentMaker(Protocol):
    """Starts agents of one kind."""

    async def start(self, spec: AgentSpec) -> Agent:
        """Start a process that is ready for its first turn.

        A start that fails or is cancelled leaves nothing behind. Raises: AgentStartError.
        """


Lease = Callable[[AgentSpec], AbstractAsyncContextManager[Agent]]
"""The use of an agent for one turn. A warm one of the same session is taken where there is one.

On a clean exit the agent stays warm; on an exception, or if it is no longer alive, it is closed.
"""


class TurnQueue(Protocol):
    """The durable queue of turns: every method is one transaction."""

    async def accept(self, message: Inbound, verdict: Verdict) -> Accepted:
        """Store a message and what the verdict says about it; durable on return.

        A message id that was judged before changes nothing (`fresh` False); one that was HELD may
        be judged again once. A turn over `limits` is not stored: the message becomes REFUSED and
        `busy` is stored in the place of turn and `notice`. The conversation is made known if it is
        new.
        """

    async def again(self, turn: TurnId, key: str, chat_id: str, limits: QueueLimits) -> Copied:
        """Queue a copy of an ended turn of this chat, once a turn and once a key.

        In its conversation it stands where a message of this moment would. Over `limits` nothing
        is stored, and the turn can be sent again later.
        """

    async def take(self) -> Claim | None:
        """Start the next turn: mark it running, raise its epoch, open its reply with one part.

        Conversations with a running turn are passed over. Inside a conversation `created_at` of the
        message (of a copy: when it was asked for), then its id, then store order decides; among
        conversations the turn stored first.
        Turns with a prompt open a card reply, those without one a text reply. If the caller is
        cancelled, the turn goes back to the queue.
        """

    async def settle(self, claim: Claim, outcome: Outcome) -> bool:
        """End the claimed turn and make its reply due, in one transaction.

        False: the epoch is no longer the turn's, nothing was changed. Repeating is harmless.
        The conversation's session becomes what the outcome says.
        """

    async def orphans(self) -> tuple[Claim, ...]:
        """Turns found running that this process never took: claimed anew with a raised epoch.

        To be called once, before the first `take`.
        """

    async def cancel(self, turn: TurnId) -> bool:
        """Drop a turn that is still queued; False if it is not."""

    async def waiting(self, limit: int) -> tuple[Waiting, ...]:
        """Queued turns that were never announced, oldest first."""

    async def announce(self, turn: TurnId, notice: NewNotice | None) -> None:
        """Mark a waiting turn as announced and store its notice (None: without one)."""

    async def counts(self) -> QueueCounts:
        """Queued and running turns now; cheap."""


class Inbox(Protocol):
    """What intake keeps besides turns."""

    async def keep(self, event: Malformed) -> None:
        """Keep an event that could not be understood, once per event id."""

    async def held(self, limit: int) -> tuple[Inbound, ...]:
        """Messages that were stored as HELD, oldest first."""

    async def notify(self, notice: NewNotice) -> bool:
        """Store a notice for delivery; False if its `once` key was used before."""


class Deliveries(Protocol):
    """What the outbox works on."""

    async def due(self, now: float, limit: int) -> tuple[Reply, ...]:
        """Replies to be delivered now: turns' answers first, then notices, by age.

        Of one conversation only the oldest undelivered reply is offered. A reply whose turn still
        runs is not due.
        """

    async def next_due(self, now: float) -> float | None:
        """When a postponed reply is to be tried again next, after `now`; None if none is.

        A time that has come is not told again: `due` offers the reply.
        """

    async def live(self, reply: ReplyId) -> Reply | None:
        """A reply that is still open, with its parts; None once it is due or delivered."""

    async def save_part(self, part: Part) -> None:
        """Insert or update a part, by reply and ordinal."""

    async def delivered(self, reply: ReplyId) -> None:
        """The reply is settled for good."""

    async def postpone(self, reply: ReplyId, until: float, error: str) -> None:
        """Try again then; counts the attempt."""

    async def give_up(self, reply: ReplyId, error: str) -> None:
        """The platform refuses every form of it; kept for operators, never tried again."""


class Conversations(Protocol):
    """What is known about conversations."""

    async def conversation(self, conversation: ConversationId) -> Conversation | None:
        """One conversation; None if unknown."""

    async def conversation_count(self) -> int:
        """How many are stored."""


TranscriptKey = tuple[str, str, str]
"""Project key, session id, subpath ('' for the main transcript)."""


class Transcripts(Protocol):
    """Agent transcripts: append-only lists of opaque entries."""

    async def append(self, key: TranscriptKey, entries: Sequence[Mapping[str, object]]) -> None:
        """Add entries in order; durable on return. An entry with a `uuid` is stored once a key."""

    async def load(self, key: TranscriptKey) -> list[dict[str, object]] | None:
        """All entries in order; None if the key is unknown."""

    async def sessions(self, project: str) -> list[tuple[SessionId, float]]:
        """Sessions of a project with the time of their last entry, newest first."""

    async def subpaths(self, project: str, session: SessionId) -> list[str]:
        """Subpaths under a session, without the main transcript."""

    async def delete(self, key: TranscriptKey) -> None:
        """Forget a key; with subpath '' all of the session's subpaths too. Unknown: no-op."""


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """What `prune` removes: things last touched before these times."""

    messages: float
    transcripts: float


class Store(TurnQueue, Inbox, Deliveries, Conversations, Transcripts, Protocol):
    """All of it, over one database."""

    async def prune(self, cutoffs: Cutoffs) -> Mapping[str, int]:
        """Remove what is older, in bounded steps; counts by table. Nothing undelivered goes.

        Messages younger than eight hours stay whatever the cutoff says: the platform delivers
        again for more than seven.
        """

    async def writable(self) -> None:
        """Returns after a real write. Raises: StoreError with the reason."""

    async def close(self) -> None:
        """Finish the writes under way, then close."""
