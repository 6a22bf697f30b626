"""The long connection's binary frame, `pbbp2.Frame` in proto2 wire format, without protobuf.

Field numbers as the platform's official SDKs carry them: SeqID 1, LogID 2, service 3, method 4
(all required), headers 5 {key 1, value 2, both required}, payload_encoding 6, payload_type 7,
payload 8, LogIDNew 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

CONTROL = 0
DATA = 1

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""Longer frames are refused; the platform cuts events into far smaller ones."""
MAX_HEADERS = 64
MAX_GROUP_DEPTH = 8

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_MASK64 = (1 << 64) - 1


class FrameError(ValueError):
    """Bytes that are no frame. The message says what is wrong and where, never the content."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `method` is CONTROL or DATA; None marks an optional field that is absent."""

    method: int
    headers: tuple[tuple[str, str], ...] = ()
    payload: bytes | None = None
    service: int = 0
    seq_id: int = 0
    log_id: int = 0
    payload_encoding: str | None = None
    payload_type: str | None = None
    log_id_new: str | None = None

    def header(self, key: str) -> str:
        """The first value under `key`; '' if there is none."""
        for name, value in self.headers:
            if name == key:
                return value
        return ""


def encode(frame: Frame) -> bytes:
    """The frame's bytes, fields in number order, absent ones left out.

    Raises: FrameError if a number is outside its field's range or a text has no UTF-8 form.
    """
    out = bytearray()
    _put_number(out, 1, frame.seq_id, 0, _MASK64)
    _put_number(out, 2, frame.log_id, 0, _MASK64)
    _put_number(out, 3, frame.service, -(1 << 31), (1 << 31) - 1)
    _put_number(out, 4, frame.method, -(1 << 31), (1 << 31) - 1)
    for key, value in frame.headers:
        header = bytearray()
        _put_bytes(header, 1, _utf8(key))
        _put_bytes(header, 2, _utf8(value))
        _put_bytes(out, 5, header)
    if frame.payload_encoding is not None:
        _put_bytes(out, 6, _utf8(frame.payload_encoding))
    if frame.payload_type is not None:
        _put_bytes(out, 7, _utf8(frame.payload_type))
    if frame.payload is not None:
        _put_bytes(out, 8, frame.payload)
    if frame.log_id_new is not None:
        _put_bytes(out, 9, _utf8(frame.log_id_new))
    return bytes(out)


def decode(data: bytes) -> Frame:
    """The frame in `data`; unknown fields are skipped, of a repeated single field the last counts.

    Raises: FrameError, and nothing else, whatever the bytes are.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {len(data)} bytes, at most {MAX_FRAME_BYTES} are read")
    numbers: dict[int, int] = {}
    texts: dict[int, str] = {}
    headers: list[tuple[str, str]] = []
    payload: bytes | None = None
    for number, value in _fields(data):
        if isinstance(value, int):
            if number <= 4:
                numbers[number] = value
        elif number == 8:
            payload = value
        elif number == 5:
            if len(headers) == MAX_HEADERS:
                raise FrameError(f"more than {MAX_HEADERS} headers")
            headers.append(_header(value))
        elif number in (6, 7, 9):
            texts[number] = _text(value, number)
    missing = [number for number in (1, 2, 3, 4) if number not in numbers]
    if missing:
        raise FrameError(f"required fields missing: {missing}")
    return Frame(
        method=_int32(numbers[4]),
        headers=tuple(headers),
        payload=payload,
        service=_int32(numbers[3]),
        seq_id=numbers[1],
        log_id=numbers[2],
        payload_encoding=texts.get(6),
        payload_type=texts.get(7),
        log_id_new=texts.get(9),
    )


def _header(data: bytes) -> tuple[str, str]:
    parts: dict[int, str] = {}
    for number, value in _fields(data):
        if number in (1, 2) and isinstance(value, bytes):
            parts[number] = _text(value, number)
    if len(parts) != 2:
        raise FrameError("a header without key or value")
    return parts[1], parts[2]


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Varint and length-delimited fields in order; the other wire types are stepped over."""
    at = 0
    while at < len(data):
        number, kind, at = _tag(data, at)
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
        elif kind == _BYTES:
            start, at = _span(data, at)
            yield number, data[start:at]
        else:
            at = _skip(data, at, number, kind, 0)


def _skip(data: bytes, at: int, number: int, kind: int, depth: int) -> int:
    if kind == _VARINT:
        return _varint(data, at)[1]
    if kind == _BYTES:
        return _span(data, at)[1]
    if kind in (_FIXED64, _FIXED32):
        end = at + (8 if kind == _FIXED64 else 4)
        if end > len(data):
            raise FrameError(f"field {number} is cut off")
        return end
    if kind != _GROUP or depth == MAX_GROUP_DEPTH:
        raise FrameError(f"field {number} has wire type {kind} at depth {depth}")
    while True:
        inner, inner_kind, at = _tag(data, at)
        if inner_kind == _GROUP_END:
            if inner != number:
                raise FrameError(f"group {number} is closed as {inner}")
            return at
        at = _skip(data, at, inner, inner_kind, depth + 1)


def _tag(data: bytes, at: int) -> tuple[int, int, int]:
    tag, at = _varint(data, at)
    if not 8 <= tag < 1 << 32:
        raise FrameError(f"bad tag before byte {at}")
    return tag >> 3, tag & 7, at


def _span(data: bytes, at: int) -> tuple[int, int]:
    length, start = _varint(data, at)
    if length > len(data) - start:
        raise FrameError(f"{length} bytes announced at byte {at}, {len(data) - start} left")
    return start, start + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    if at < len(data) and data[at] < 0x80:  # Nearly all of them.
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise FrameError("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _MASK64:
                raise FrameError(f"number over 64 bits before byte {at}")
            return value, at
    raise FrameError(f"number without end before byte {at}")


def _int32(value: int) -> int:
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >= 1 << 31 else low


def _text(data: bytes, number: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise FrameError(f"field {number} is not UTF-8") from exc


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise FrameError("text with a lone surrogate") from exc


def _put_number(out: bytearray, number: int, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise FrameError(f"field {number} is out of range")
    out.append(number << 3 | _VARINT)
    _put_varint(out, value & _MASK64)


def _put_bytes(out: bytearray, number: int, value: bytes | bytearray) -> None:
    out.append(number << 3 | _BYTES)
    _put_varint(out, len(value))
    out += value


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
