"""What an agent reports while a turn runs. A closed union: `AgentEvent`."""

from __future__ import annotations

from dataclasses import dataclass, field

from larkline.domain.model import SessionId, Usage


@dataclass(frozen=True, slots=True)
class Started:
    """The agent took the prompt up. `session` is the id it writes to."""

    session: SessionId
    model: str
    version: str


@dataclass(frozen=True, slots=True)
class MessageStart:
    """A model message begins: any draft text before it, not confirmed by `TextDone`, is void."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of draft text."""

    text: str


@dataclass(frozen=True, slots=True)
class TextDone:
    """A whole text block, exact: it replaces the draft."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """The model thinks (no text is shown)."""


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool call begins. `about` is one short line: the command, path or pattern."""

    id: str
    name: str
    about: str


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """A tool call ended."""

    id: str
    failed: bool


@dataclass(frozen=True, slots=True)
class Denied:
    """A tool was not allowed to run."""

    id: str
    name: str
    about: str


@dataclass(frozen=True, slots=True)
class Retrying:
    """The agent tries a model call again by itself. `status` None: no HTTP answer."""

    status: int | None


@dataclass(frozen=True, slots=True)
class Alive:
    """A sign of life with nothing to show."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The agent's own result for a turn, in the CLI's vocabulary; always the last event.

    `error` is the `assistant.error` class of the last message, '' for none.
    """

    session: SessionId
    is_error: bool
    text: str
    terminal_reason: str = ""
    api_error_status: int | None = None
    error: str = ""
    subtype: str = ""
    num_turns: int = 0
    usage: Usage = field(default_factory=Usage)


AgentEvent = (
    Started
    | MessageStart
    | TextDelta
    | TextDone
    | Thinking
    | ToolStarted
    | ToolEnded
    | Denied
    | Retrying
    | Alive
    | Ended
)
