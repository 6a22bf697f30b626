"""Our frame codec against the official SDK's generated protobuf class."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lark_oapi.ws.pb.pbbp2_pb2 import Frame as SdkFrame

from larkline.chats.feishu.frames import Frame, FrameError, decode, encode

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


def to_sdk(frame: Frame) -> Any:
    """The same frame as the SDK's class."""
    made = SdkFrame(
        SeqID=frame.seq_id, LogID=frame.log_id, service=frame.service, method=frame.method
    )
    for key, value in frame.headers:
        made.headers.add(key=key, value=value)
    for name in ("payload_encoding", "payload_type", "payload"):
        if getattr(frame, name) is not None:
            setattr(made, name, getattr(frame, name))
    if frame.log_id_new is not None:
        made.LogIDNew = frame.log_id_new
    return made


def from_sdk(made: Any) -> Frame:
    """The SDK's frame as ours."""

    def optional(name: str) -> Any:
        return getattr(made, name) if made.HasField(name) else None

    return Frame(
        method=made.method,
        headers=tuple((header.key, header.value) for header in made.headers),
        payload=optional("payload"),
        service=made.service,
        seq_id=made.SeqID,
        log_id=made.LogID,
        payload_encoding=optional("payload_encoding"),
        payload_type=optional("payload_type"),
        log_id_new=optional("LogIDNew"),
    )


@given(FRAMES)
def test_both_write_the_same_bytes(frame: Frame) -> None:
    """Our bytes are the SDK's bytes, and each reads the other's."""
    wire = encode(frame)
    theirs = to_sdk(frame)
    assert theirs.SerializeToString() == wire
    assert decode(theirs.SerializeToString()) == frame
    read = SdkFrame()
    read.ParseFromString(wire)
    assert from_sdk(read) == frame


@given(FRAMES, st.data())
@settings(max_examples=300)
def test_both_judge_damaged_bytes_alike(frame: Frame, data: st.DataObject) -> None:
    """What we read out of damaged bytes, the SDK reads too, and the same."""
    wire = bytearray(encode(frame))
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        ours = decode(bytes(wire))
    except FrameError:
        return
    read = SdkFrame()
    read.ParseFromString(bytes(wire))
    assert from_sdk(read) == ours


def test_a_frame_without_its_required_fields_is_none_for_both() -> None:
    """A frame without its required fields is no frame for either."""
    with pytest.raises(FrameError):
        decode(b"\x08\x01")
    read = SdkFrame()
    read.ParseFromString(b"\x08\x01")
    assert not read.IsInitialized()
