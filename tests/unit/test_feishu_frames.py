from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from larkline.chats.feishu.frames import (
    DATA,
    MAX_FRAME_BYTES,
    MAX_HEADERS,
    Frame,
    FrameError,
    decode,
    encode,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
UINT64 = st.integers(0, (1 << 64) - 1)
FRAMES = st.builds(
    Frame,
    method=INT32,
    headers=st.lists(st.tuples(TEXT, TEXT), max_size=8).map(tuple),
    payload=st.none() | st.binary(max_size=300),
    service=INT32,
    seq_id=UINT64,
    log_id=UINT64,
    payload_encoding=st.none() | TEXT,
    payload_type=st.none() | TEXT,
    log_id_new=st.none() | TEXT,
)
SMALL = encode(Frame(DATA, (("type", "event"), ("sum", "1")), b"{}", 7, 1, 2))


@given(FRAMES)
def test_round_trip(frame: Frame) -> None:
    """What was encoded is decoded to the same, absent fields included."""
    assert decode(encode(frame)) == frame


@given(st.binary(max_size=400))
@example(b"\x0b" * 5000)  # groups within groups
@example(b"\x80" * 11)
@example(b"\x2a\xff\xff\xff\xff\x0f")
def test_any_bytes_give_a_frame_or_the_typed_error(data: bytes) -> None:
    """Random bytes never raise anything but FrameError."""
    with suppress(FrameError):
        decode(data)


@given(FRAMES, st.data())
def test_damaged_frames_give_a_frame_or_the_typed_error(frame: Frame, data: st.DataObject) -> None:
    """A frame with any byte changed or cut never raises anything but FrameError."""
    wire = bytearray(encode(frame))
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at] = data.draw(st.integers(0, 255))
    wire = wire[: data.draw(st.integers(0, len(wire)))]
    with suppress(FrameError):
        decode(bytes(wire))


@pytest.mark.parametrize(
    "unknown",
    [
        b"\x50\x96\x01",  # 10: varint
        b"\x51" + b"\0" * 8,  # 10: 64 bits
        b"\x55" + b"\0" * 4,  # 10: 32 bits
        b"\x52\x03abc",  # 10: bytes
        b"\x53\x58\x01\x54",  # 10: a group
        b"\x09" + b"\0" * 8,  # SeqID with a foreign wire type
    ],
)
def test_unknown_fields_are_skipped(unknown: bytes) -> None:
    """Fields of later protocol versions change nothing."""
    assert decode(unknown + SMALL + unknown) == decode(SMALL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x01\x10\x01\x18\x01",  # no method
        SMALL + b"\x53\x58\x01",  # group without end
        SMALL + b"\x54",  # end of no group
        SMALL + b"\x42\x05ab",  # payload cut off
        SMALL + b"\x2a\x03\x0a\x01k",  # header without value
        SMALL + b"\x2a\x06\x0a\x01\xff\x12\x01v",  # header that is not UTF-8
        SMALL + b"\x2a\x06\x0a\x01k\x12\x01v" * MAX_HEADERS,
        SMALL + b"\x00\x00",  # field number 0
        b"\0" * (MAX_FRAME_BYTES + 1),
    ],
)
def test_malformed_frames_are_refused(data: bytes) -> None:
    """Missing required fields, broken structure and sizes over the bounds are typed errors."""
    with pytest.raises(FrameError):
        decode(data)


@pytest.mark.parametrize(
    "frame", [Frame(1 << 31), Frame(1, seq_id=-1), Frame(1, (("key", "\ud800"),))]
)
def test_what_the_wire_cannot_carry_is_refused(frame: Frame) -> None:
    """Numbers out of range and lone surrogates are typed errors when encoding."""
    with pytest.raises(FrameError):
        encode(frame)


def test_header_gives_the_first_value() -> None:
    """A header that comes twice counts as first given; a missing one is empty."""
    frame = Frame(1, (("type", "event"), ("type", "card")))
    assert (frame.header("type"), frame.header("none")) == ("event", "")
