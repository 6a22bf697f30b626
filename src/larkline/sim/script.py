"""The small language that writes an offline model's steps in a prompt.

One `Step` (`larkline.sim.steps`) answers one model call. A prompt may carry directives,
`[[name]]` or `[[name:value]]`, anywhere in its text; `[[then]]` begins the step of the next call of
the same turn (the one after a tool result). Later directives of a step win where only one can hold.

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
from dataclasses import replace

from larkline.sim.steps import (
    Blank,
    Block,
    Broken,
    Cut,
    Dropped,
    Fault,
    Garbled,
    Hung,
    LastResult,
    Refused,
    Stalled,
    Step,
    Text,
    Thinking,
    Tokens,
    Tool,
    Unfinished,
)

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
    chunk = _whole(said.get("chunk", "0"), 1_000_000)
    content = [_block(name, value, chunk) for name, value in parts if name in _CONTENT]
    delay = _seconds(said["delay"]) if "delay" in said else None
    if "rate" in said:
        delay = 1 / max(1e-6, _seconds(said["rate"]))
    return Step(
        blocks=tuple(b for b in content if b is not None) if content else None,
        delay=delay,
        first=_seconds(said.get("first", "0")),
        stop=said.get("stop", ""),
        fault=_fault(parts),
        times=_whole(said.get("times", "0"), 1_000_000),
    )


def _block(name: str, value: str, chunk: int) -> Block | None:
    match name:
        case "text":
            return Text(value, chunk)
        case "tokens":
            return Tokens(_whole(value, 1_000_000))
        case "size":
            return Text(filler(_whole(value, 50_000_000)), 4000)
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
    headers = dict(_pair(text) for name, text in parts if name == "header")
    named = [name for name, _ in parts if name in _FAULTS]
    if "status" in said or named[-1:] == ["html"]:
        return _refused(said, headers)
    if not named:
        return None
    name = named[-1]
    after = _whole(said[name] or "0", 1_000_000)
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
            return Stalled(after, pings=max(0.001, _seconds(said.get("every", "0.5"))))
        case "break":
            broken = Broken(after, message=said.get("message", "Overloaded"))
            return replace(broken, kind=said["kind"]) if "kind" in said else broken
        case "garble":
            return Garbled(after)
        case _:
            return Unfinished()


def _refused(said: Mapping[str, str], headers: Mapping[str, str]) -> Refused:
    if "retry-after" in said:
        headers = {**headers, "retry-after": said["retry-after"].strip()}
    return Refused(
        status=max(200, _whole(said.get("status", "200"), 599)),
        kind=said.get("kind", ""),
        message=said.get("message", ""),
        headers=headers,
        html="html" in said,
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not text.isascii() or not text.isprintable():
        raise ValueError("[[header:name=value]] needs a = and plain characters")
    return name.strip(), value.strip()


def _whole(text: str, highest: int) -> int:
    number = int(text)
    if not 0 <= number <= highest:
        raise ValueError(f"{number} is not between 0 and {highest}")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1e6:
        raise ValueError(f"{number} is not between 0 and a million")
    return number


def filler(chars: int) -> str:
    """Exactly `chars` characters in lines of 50, the same each time."""
    line = "the quick brown fox jumps over the lazy dog again\n"
    return (line * (chars // len(line) + 1))[:chars]
