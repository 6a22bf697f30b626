"""A step as the bytes of the Messages API: server-sent events or one JSON message."""

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from larkline.sim.asked import Asked, tokens_in
from larkline.sim.steps import Block, LastResult, Step, Text, Thinking, Tokens, Tool

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
GARBAGE = b'event: content_block_delta\ndata: {"type":"content_block_delta","ind\n\n'
_WORDS = re.compile(r"\s*[^\s⺀-鿿]{1,12}|\s*[⺀-鿿]{1,2}|\s+")
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes to send at once; `delta` tells those that the pace counts."""

    data: bytes
    delta: bool = False


def event(kind: str, **fields: object) -> bytes:
    """One server-sent event of the API."""
    body = json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {body}\n\n".encode(errors="replace")


def frames(step: Step, asked: Asked, *, ending: bool = True) -> Iterator[Frame]:
    """The stream of an answer, one frame a delta; without `ending` the last two events lack."""
    message = {**_envelope(asked), "content": [], "stop_reason": None, "stop_sequence": None}
    yield Frame(event("message_start", message={**message, "usage": usage(asked, 1)}) + PING)
    for index, block in enumerate(step.blocks or ()):
        yield Frame(event("content_block_start", index=index, content_block=_opening(block)))
        head = f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{index},'
        for delta in _deltas(block, asked):
            body = json.dumps(delta, ensure_ascii=False, separators=(",", ":"))
            yield Frame(f'{head}"delta":{body}}}\n\n'.encode(errors="replace"), delta=True)
        yield Frame(event("content_block_stop", index=index))
    if ending:
        stop = {"stop_reason": step.stop_reason, "stop_sequence": None}
        total = {"output_tokens": tokens_out(step, asked)}
        yield Frame(event("message_delta", delta=stop, usage=total) + event("message_stop"))


def message(step: Step, asked: Asked) -> Json:
    """The same answer as one JSON message, for a request that does not stream."""
    return {
        **_envelope(asked),
        "content": [_whole(block, asked) for block in step.blocks or ()],
        "stop_reason": step.stop_reason,
        "stop_sequence": None,
        "usage": usage(asked, tokens_out(step, asked)),
    }


def usage(asked: Asked, output: int) -> Json:
    """The usage block: what a model already saw in this conversation is read from its cache."""
    return {
        "input_tokens": asked.new_tokens,
        "cache_creation_input_tokens": 0 if asked.resumed else asked.old_tokens,
        "cache_read_input_tokens": asked.old_tokens if asked.resumed else 0,
        "output_tokens": output,
    }


def tokens_out(step: Step, asked: Asked) -> int:
    """The output tokens of an answer, at least 1."""
    return max(1, sum(_tokens(block, asked) for block in step.blocks or ()))


def text_of(block: Block, asked: Asked) -> str:
    """The text a block shows, '' for a tool call."""
    match block:
        case Text(text) | Thinking(text):
            return text
        case Tokens(count):
            return " ".join(f"t{n}" for n in range(1, count + 1))
        case LastResult():
            return "\n".join(r.text for r in asked.results) or "(no tool result)"
        case Tool():
            return ""
        case _:
            assert_never(block)


def _envelope(asked: Asked) -> Json:
    name = f"msg_off{secrets.token_hex(11)}"
    return {"id": name, "type": "message", "role": "assistant", "model": asked.model}


def _opening(block: Block) -> Json:
    match block:
        case Tool(name):
            return {"type": "tool_use", "id": _tool_id(), "name": name, "input": {}}
        case Thinking():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case _:
            return {"type": "text", "text": ""}


def _whole(block: Block, asked: Asked) -> Json:
    match block:
        case Tool(name, input_json):
            return {"type": "tool_use", "id": _tool_id(), "name": name, "input": _value(input_json)}
        case Thinking(text):
            return {"type": "thinking", "thinking": text, "signature": _SIGNATURE}
        case _:
            return {"type": "text", "text": text_of(block, asked)}


_SIGNATURE = "b2ZmbGluZQ=="


def _tool_id() -> str:
    return f"toolu_off{secrets.token_hex(10)}"


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return {"unparsed": text}


def _deltas(block: Block, asked: Asked) -> Iterator[Json]:
    match block:
        case Tool(_, input_json):
            for piece in _sliced(input_json, 24):
                yield {"type": "input_json_delta", "partial_json": piece}
        case Thinking(text):
            for piece in _worded(text):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": _SIGNATURE}
        case Tokens(count):
            for n in range(1, count + 1):
                yield {"type": "text_delta", "text": f"t{n}" if n == 1 else f" t{n}"}
        case Text(text, chunk) if chunk:
            for piece in _sliced(text, chunk):
                yield {"type": "text_delta", "text": piece}
        case _:
            for piece in _worded(text_of(block, asked)):
                yield {"type": "text_delta", "text": piece}


def _sliced(text: str, size: int) -> Sequence[str]:
    return [text[n : n + size] for n in range(0, len(text), size)]


def _worded(text: str) -> Sequence[str]:
    return _WORDS.findall(text)


def _tokens(block: Block, asked: Asked) -> int:
    match block:
        case Tokens(count):
            return count
        case Tool(name, input_json):
            return tokens_in(name) + tokens_in(input_json)
        case _:
            return tokens_in(text_of(block, asked))
