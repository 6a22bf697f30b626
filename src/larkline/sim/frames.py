"""The long connection's binary frame, through protobuf and independent of the product's codec.

Message `pbbp2.Frame` (proto2), as the official SDKs carry it: fields 1-4 are required.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

CONTROL = 0
DATA = 1

_Field = descriptor_pb2.FieldDescriptorProto
_REQUIRED, _OPTIONAL, _REPEATED = (
    _Field.LABEL_REQUIRED,
    _Field.LABEL_OPTIONAL,
    _Field.LABEL_REPEATED,
)


class MalformedFrame(ValueError):
    """Bytes that are no frame."""


@dataclass(frozen=True, slots=True)
class WireFrame:
    """One frame; `method` is CONTROL or DATA."""

    method: int
    headers: Mapping[str, str]
    payload: bytes = b""
    service: int = 0
    seq_id: int = 0
    log_id: int = 0
    payload_type: str = ""


def _frame_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="larkline_sim_pbbp2.proto", package="pbbp2", syntax="proto2"
    )
    header = file.message_type.add(name="Header")
    for number, name in enumerate(("key", "value"), 1):
        header.field.add(name=name, number=number, label=_REQUIRED, type=_Field.TYPE_STRING)
    frame = file.message_type.add(name="Frame")
    shape = (
        ("SeqID", 1, _REQUIRED, _Field.TYPE_UINT64),
        ("LogID", 2, _REQUIRED, _Field.TYPE_UINT64),
        ("service", 3, _REQUIRED, _Field.TYPE_INT32),
        ("method", 4, _REQUIRED, _Field.TYPE_INT32),
        ("headers", 5, _REPEATED, _Field.TYPE_MESSAGE),
        ("payload_encoding", 6, _OPTIONAL, _Field.TYPE_STRING),
        ("payload_type", 7, _OPTIONAL, _Field.TYPE_STRING),
        ("payload", 8, _OPTIONAL, _Field.TYPE_BYTES),
        ("LogIDNew", 9, _OPTIONAL, _Field.TYPE_STRING),
    )
    for name, number, label, kind in shape:
        entry = frame.field.add(name=name, number=number, label=label, type=kind)
        if kind == _Field.TYPE_MESSAGE:
            entry.type_name = ".pbbp2.Header"
    # A pool of our own: the official SDK registers the same names in the default one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pbbp2.Frame"))


_Frame = _frame_class()


def encode(frame: WireFrame) -> bytes:
    """The frame's bytes."""
    wire = _Frame(
        SeqID=frame.seq_id,
        LogID=frame.log_id,
        service=frame.service,
        method=frame.method,
        payload=frame.payload,
    )
    for key, value in frame.headers.items():
        wire.headers.add(key=key, value=value)
    if frame.payload_type:
        wire.payload_type = frame.payload_type
    data: bytes = wire.SerializeToString()
    return data


def decode(data: bytes) -> WireFrame:
    """The frame in `data`.

    Raises:
        MalformedFrame: no protobuf, a required field missing, or text that is not UTF-8.
    """
    wire = _Frame()
    try:
        wire.ParseFromString(data)
    except (message.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedFrame(str(exc)) from exc
    if not wire.IsInitialized():
        raise MalformedFrame(f"required fields missing: {wire.FindInitializationErrors()}")
    return WireFrame(
        method=wire.method,
        headers={header.key: header.value for header in wire.headers},
        payload=wire.payload,
        service=wire.service,
        seq_id=wire.SeqID,
        log_id=wire.LogID,
        payload_type=wire.payload_type,
    )
