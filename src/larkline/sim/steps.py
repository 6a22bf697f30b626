"""The steps that an offline model plays: one answers one model call."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Text:
    """A text block. `chunk` is characters a delta; 0 lets words decide."""

    text: str
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text block of `count` short deltas, each one output token."""

    count: int


@dataclass(frozen=True, slots=True)
class Thinking:
    """A thinking block."""

    text: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool call; `input_json` is sent as it is, also when it is not JSON."""

    name: str
    input_json: str = "{}"


@dataclass(frozen=True, slots=True)
class LastResult:
    """A text block with the newest tool result."""


Block = Text | Tokens | Thinking | Tool | LastResult


@dataclass(frozen=True, slots=True)
class Refused:
    """An error status instead of an answer; `html` sends a page where the API sends JSON."""

    status: int
    kind: str = ""
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    html: bool = False


@dataclass(frozen=True, slots=True)
class Hung:
    """No headers, ever."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The connection closed before any header; `reset` sends RST."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class Blank:
    """Status 200 and an event stream with nothing in it."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection closed after `after` deltas; `reset` sends RST."""

    after: int = 0
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Stalled:
    """Silence after `after` deltas; `pings` > 0 sends a ping each so many seconds."""

    after: int = 0
    pings: float = 0.0


@dataclass(frozen=True, slots=True)
class Broken:
    """An `error` event after `after` deltas."""

    after: int = 0
    kind: str = "overloaded_error"
    message: str = "Overloaded"


@dataclass(frozen=True, slots=True)
class Garbled:
    """A frame that is not JSON after `after` deltas."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A stream that ends without `message_stop`."""


Fault = Refused | Hung | Dropped | Blank | Cut | Stalled | Broken | Garbled | Unfinished


@dataclass(frozen=True, slots=True)
class Step:
    """What one model call gets.

    `blocks` None leaves the content to the model's own answer, () is an answer without any.
    `delay` is seconds between deltas (None: the model's default), `first` seconds before the
    headers. `fault` meets the first `times` requests of the step (0: all of them).
    `stop` '' lets the content decide: `tool_use` with a tool call, else `end_turn`.
    """

    blocks: tuple[Block, ...] | None = None
    delay: float | None = None
    first: float = 0.0
    stop: str = ""
    fault: Fault | None = None
    times: int = 0

    @property
    def stop_reason(self) -> str:
        """The stop reason the answer ends with."""
        if self.stop:
            return self.stop
        return "tool_use" if any(isinstance(b, Tool) for b in self.blocks or ()) else "end_turn"
