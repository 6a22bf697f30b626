"""The steps an offline model plays, and the small language that writes them in a prompt.

One `Step` answers one model call. A prompt may carry directives, `[[name]]` or `[[name:value]]`,
anywhere in its text; `[[then]]` begins the step of the next call of the same turn (the one after
a tool result). Later directives of a step win where only one can hold.

Content, played in the order written:

| directive | the answer contains |
|---|---|
| `[[text:hello]]` | a text block |
| `[[tokens:500]]` | a text block of 500 deltas, one output token each |
| `[[size:2000000]]` | a text block of so many characters, 4,000 a delta |
| `[[think:hm]]` | a thinking block |
| `[[tool:Bash {"command":"ls"}]]` | a tool call; several make parallel calls |
| `[[rawtool:Bash {"comm]]` | a tool call whose input is not JSON |
| `[[result]]` | a text block with the last tool result, word for word |
| `[[empty]]` | nothing: an end_turn without content |
| `[[stop:max_tokens]]` | this stop reason (`refusal`, `pause_turn`, ...) |

Pace:

| directive | effect |
|---|---|
| `[[delay:0.02]]` | seconds between deltas, kept against the clock, not added up |
| `[[rate:50]]` | the same as deltas a second |
| `[[first:1.5]]` | seconds before the response headers |
| `[[chunk:4]]` | characters a delta |

Faults (one a step; `n` counts deltas sent before it, 0 if left out):

| directive | what the client meets |
|---|---|
| `[[status:529]]` | this status with the API's error body |
| `[[kind:billing_error]]`, `[[message:...]]` | the error's type and message, also for `break` |
| `[[retry-after:3]]`, `[[header:name=value]]` | headers of the refusal |
| `[[html]]` | with a status: an HTML page as the body; alone: HTML with status 200 |
| `[[hang]]` | no headers, ever |
| `[[drop]]`, `[[reset]]` | the connection closed (FIN, RST) before any header |
| `[[blank]]` | 200 and an event stream with nothing in it |
| `[[cut:n]]`, `[[rst:n]]` | the connection closed (FIN, RST) in mid-stream |
| `[[stall:n]]` | silence in mid-stream, the connection stays open |
| `[[pings:n]]` | only `ping` events from there on, one each `[[every:0.5]]` seconds |
| `[[break:n]]` | an `error` event in mid-stream (`overloaded_error` unless `kind` says) |
| `[[garble:n]]` | a frame that is not JSON, then the end |
| `[[nostop]]` | the stream ends properly but without `message_stop` |
| `[[times:2]]` | the fault meets only the first 2 requests of this step, then the content plays |

A step that says nothing about content gets the model's own answer, after its fault if that is
limited by `times`. An unknown name is left alone: it may be the user's own text.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace


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


_OPEN = re.compile(r"\[\[([a-z][a-z-]*)(?::\s?|(?=\]\]))")
_BEFORE = frozenset({"status", "html", "hang", "drop", "reset", "blank"})
_WITHIN = frozenset({"cut", "rst", "stall", "pings", "break", "garble", "nostop"})
_FAULTS = _BEFORE | _WITHIN
_CONTENT = frozenset({"text", "tokens", "size", "think", "tool", "rawtool", "result", "empty"})
_PACE = frozenset({"delay", "rate", "first", "chunk"})
_DETAIL = frozenset({"stop", "kind", "message", "retry-after", "header", "every", "times", "then"})
_NAMES = _FAULTS | _CONTENT | _PACE | _DETAIL


def parse(prompt: str) -> tuple[Step, ...]:
    """The steps that a prompt's directives describe; empty when it carries none.

    Raises: ValueError when a known directive has a value that does not fit.
    """
    written: list[list[tuple[str, str]]] = [[]]
    for name, value in _directives(prompt):
        if name == "then":
            written.append([("text", value)] if value else [])
        else:
            written[-1].append((name, value))
    if written == [[]]:
        return ()
    return tuple(_step(parts) for parts in written)


def _directives(prompt: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while match := _OPEN.search(prompt, at):
        name, at = match[1], match.end()
        if name not in _NAMES:
            continue
        end = prompt.find("]]", _past_json(prompt, at) if name == "tool" else at)
        if end < 0:
            raise ValueError(f"[[{name}: has no closing ]]")
        found.append((name, prompt[at:end]))
        at = end + 2
    return found


def _past_json(prompt: str, at: int) -> int:
    """Where a tool's input ends: its JSON may contain ]] itself."""
    brace, close = prompt.find("{", at), prompt.find("]]", at)
    if brace < 0 or 0 <= close < brace:
        return at
    try:
        return json.JSONDecoder().raw_decode(prompt, brace)[1]
    except json.JSONDecodeError as exc:
        raise ValueError(f"[[tool: input is not JSON ({exc.msg}); use rawtool for that]]") from exc


def _step(parts: list[tuple[str, str]]) -> Step:
    said = dict(parts)
    chunk = int(said.get("chunk", "0"))
    content = [_block(name, value, chunk) for name, value in parts if name in _CONTENT]
    delay = float(said["delay"]) if "delay" in said else None
    if "rate" in said:
        delay = 1 / float(said["rate"])
    return Step(
        blocks=tuple(b for b in content if b is not None) if content else None,
        delay=delay,
        first=float(said.get("first", "0")),
        stop=said.get("stop", ""),
        fault=_fault(parts),
        times=int(said.get("times", "0")),
    )


def _block(name: str, value: str, chunk: int) -> Block | None:
    match name:
        case "text":
            return Text(value, chunk)
        case "tokens":
            return Tokens(int(value))
        case "size":
            return Text(filler(int(value)), 4000)
        case "think":
            return Thinking(value)
        case "tool" | "rawtool":
            tool, _, text = value.strip().partition(" ")
            return Tool(tool, text.strip() or "{}")
        case "result":
            return LastResult()
        case _:
            return None


def _fault(parts: list[tuple[str, str]]) -> Fault | None:
    said = dict(parts)
    named = [name for name, _ in parts if name in _FAULTS]
    if "status" in said or named[-1:] == ["html"]:
        return _refused(parts, said)
    if not named:
        return None
    name = named[-1]
    after = int(said[name] or "0")
    match name:
        case "hang":
            return Hung()
        case "drop" | "reset":
            return Dropped(reset=name == "reset")
        case "blank":
            return Blank()
        case "cut" | "rst":
            return Cut(after, reset=name == "rst")
        case "stall":
            return Stalled(after)
        case "pings":
            return Stalled(after, pings=float(said.get("every", "0.5")))
        case "break":
            broken = Broken(after, message=said.get("message", "Overloaded"))
            return replace(broken, kind=said["kind"]) if "kind" in said else broken
        case "garble":
            return Garbled(after)
        case _:
            return Unfinished()


def _refused(parts: list[tuple[str, str]], said: Mapping[str, str]) -> Refused:
    headers = {k.strip(): v.strip() for n, h in parts if n == "header" for k, v in [_pair(h)]}
    if "retry-after" in said:
        headers["retry-after"] = said["retry-after"].strip()
    return Refused(
        status=int(said.get("status", "200")),
        kind=said.get("kind", ""),
        message=said.get("message", ""),
        headers=headers,
        html="html" in said,
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("[[header:name=value]] needs a =")
    return name, value


def filler(chars: int) -> str:
    """Exactly `chars` characters of numbered lines, the same each time."""
    lines = [f"{n:07d} the quick brown fox jumps over the lazy dog" for n in range(chars // 50 + 1)]
    return "\n".join(lines)[:chars]
