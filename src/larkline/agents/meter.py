"""Reads tokens and liveliness off a stream of the Messages API as it passes by.

Only `message_start`, `message_delta` and `error` events are decoded; the many deltas in between
are recognised by their first bytes.
"""

import json
import re
from collections.abc import Mapping

from larkline.domain.model import Usage

_HEAD = re.compile(
    rb'(?::[^\n]*\n|id:[^\n]*\n)*(?:event: ?([a-z_]+)|data: ?\{\s*"type"\s*:\s*"([a-z_]+)")'
)
_DATA = re.compile(rb"^data: ?(.*)$", re.MULTILINE)
_DECODED = (b"message_start", b"message_delta", b"error")
_LONGEST_EVENT_BYTES = 1 << 20
_LONGEST_ANSWER_BYTES = 8 << 20


class StreamMeter:
    """Feed it every chunk of one event stream; the bytes themselves stay untouched.

    `usage` holds the newest figures seen, `error` the type of an `error` event ('' so far none),
    `whole` whether `message_stop` has passed. An event of more than 1 MiB is not looked into.
    """

    def __init__(self) -> None:
        self.usage = Usage()
        self.error = ""
        self.whole = False
        self._tail = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> bool:
        """Take a chunk; True if it carried anything but pings, comments and blank lines.

        The beginning of an event counts once it is complete, so a trickle of half events is no
        sign of life, unless it is longer than any ping.
        """
        data = self._tail + chunk if self._tail else chunk
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")  # a last \r waits for its \n in the tail
        *events, self._tail = data.split(b"\n\n")
        lively = False
        for event in events:
            if self._skipping:
                self._skipping = False
                lively = True
            elif self._take(event):
                lively = True
        if len(self._tail) > _LONGEST_EVENT_BYTES:
            self._skipping = True
            self._tail = self._tail[-2:]
            return True
        return lively or self._skipping or len(self._tail) > 1024

    def _take(self, event: bytes) -> bool:
        head = _HEAD.match(event.lstrip(b"\n"))
        if head is None:
            return bool(event.strip()) and not event.startswith(b":")
        name = head[1] or head[2]
        if name == b"ping":
            return False
        if name == b"message_stop":
            self.whole = True
        elif name in _DECODED:
            self._decode(event)
        return True

    def _decode(self, event: bytes) -> None:
        try:
            body = json.loads(b"\n".join(_DATA.findall(event)))
        except ValueError:
            return  # the client meets the same broken event and says so itself
        if not isinstance(body, dict):
            return
        if isinstance(error := body.get("error"), dict):
            self.error = str(error.get("type", "error"))
        message = body.get("message")
        found = message.get("usage") if isinstance(message, dict) else body.get("usage")
        self.usage = updated(self.usage, found)


class AnswerMeter:
    """The same for an answer in one piece; one of more than 8 MiB is not looked into."""

    def __init__(self) -> None:
        self.error = ""
        self._body = bytearray()
        self._length = 0

    def feed(self, chunk: bytes) -> bool:
        """Take a chunk; every byte is a sign of life."""
        self._length += len(chunk)
        if self._length <= _LONGEST_ANSWER_BYTES:
            self._body += chunk
        return True

    @property
    def whole(self) -> bool:
        """Whether what came is an answer of the API."""
        return self._length > _LONGEST_ANSWER_BYTES or self._answer() is not None

    @property
    def usage(self) -> Usage:
        """Zeros where the answer says nothing that can be read."""
        return updated(Usage(), (self._answer() or {}).get("usage"))

    def _answer(self) -> dict[str, object] | None:
        if self._length > _LONGEST_ANSWER_BYTES:
            return None
        try:
            answer = json.loads(bytes(self._body))
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None


def updated(usage: Usage, found: object) -> Usage:
    """`usage` with the figures that a usage object of the API carries; they are totals."""
    if not isinstance(found, dict):
        return usage
    return Usage(
        input_tokens=_count(found, "input_tokens", usage.input_tokens),
        output_tokens=_count(found, "output_tokens", usage.output_tokens),
        cache_read_tokens=_count(found, "cache_read_input_tokens", usage.cache_read_tokens),
        cache_write_tokens=_count(found, "cache_creation_input_tokens", usage.cache_write_tokens),
    )


def added(one: Usage, other: Usage) -> Usage:
    """The tokens of both; cost is not the meter's."""
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cache_read_tokens=one.cache_read_tokens + other.cache_read_tokens,
        cache_write_tokens=one.cache_write_tokens + other.cache_write_tokens,
    )


def _count(found: Mapping[str, object], key: str, otherwise: int) -> int:
    value = found.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return otherwise
