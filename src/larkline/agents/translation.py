"""What the CLI reports, as agent events: a pure fold over the SDK's messages.

Importing this module loads the SDK (0.5 s, 69 MB): only `claude_session` does.

The CLI also runs turns of its own between ours (a background task that ended wakes it). Which
messages belong to our prompt is told by its uuid, which the CLI repeats: what comes before that is
only a sign of life, and a result that names other prompts does not end our turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from claude_agent_sdk import (
    AssistantMessage,
    ResultMessage,
    StreamEvent,
    SystemMessage,
    TaskProgressMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from larkline.agents.about import about
from larkline.domain.events import (
    AgentEvent,
    Alive,
    Denied,
    Ended,
    MessageStart,
    Retrying,
    Started,
    TextDelta,
    TextDone,
    Thinking,
    ToolEnded,
    ToolStarted,
)
from larkline.domain.model import SessionId, Usage

if TYPE_CHECKING:
    from claude_agent_sdk import Message

SYNTHETIC = "<synthetic>"
"""The model name of messages that the CLI writes itself, such as "API Error: ..."."""

_NOTHING: tuple[AgentEvent, ...] = ()
_ALIVE: tuple[AgentEvent, ...] = (Alive(),)
# They come for work that goes on beside the turn, and for none at all.
_BESIDE = {
    "mirror_error",
    "session_state_changed",
    "background_tasks_changed",
    "task_started",
    "task_updated",
    "task_notification",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a turn was read. `cost_before` is the CLI's running total when the turn began."""

    prompt_uuid: str
    workspace: str
    cost_before: float = 0.0
    taken: bool = False
    model: str = ""
    version: str = ""
    error: str = ""
    abouts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def read(reading: Reading, message: Message) -> tuple[Reading, tuple[AgentEvent, ...]]:
    """The next state and what happened. `Ended`, if it is there, is the last event."""
    if isinstance(message, ResultMessage):
        return reading, _result(reading, message)
    if isinstance(message, SystemMessage) and message.subtype == "init":
        model, version = message.data.get("model"), message.data.get("claude_code_version")
        return replace(reading, model=_text(model), version=_text(version)), _ALIVE
    if not reading.taken:
        if reading.prompt_uuid not in _prompts(message):
            return reading, _NOTHING if _beside(message) else _ALIVE
        reading = replace(reading, taken=True)
        began = Started(_session(message), reading.model, reading.version)
        reading, events = _inside(reading, message)
        return reading, (began, *events)
    return _inside(reading, message)


def _inside(reading: Reading, message: Message) -> tuple[Reading, tuple[AgentEvent, ...]]:
    if isinstance(message, SystemMessage):
        return reading, _system(reading, message)
    if getattr(message, "parent_tool_use_id", None) is not None:
        return reading, _ALIVE  # a subagent's: its words are not the answer
    if isinstance(message, StreamEvent):
        return reading, _streamed(message)
    if isinstance(message, AssistantMessage):
        return _assistant(reading, message)
    if isinstance(message, UserMessage):
        return reading, _results(message)
    return reading, _ALIVE


def _streamed(message: StreamEvent) -> tuple[AgentEvent, ...]:
    match message.event:
        case {"type": "ping"}:
            return _NOTHING  # the CLI makes pings of its own while the model hangs
        case {"type": "message_start"}:
            return (MessageStart(),)
        case {"type": "content_block_delta", "delta": {"type": "text_delta", "text": str(text)}}:
            return (TextDelta(text),) if text else _ALIVE
        case {"type": "content_block_start", "content_block": {"type": "thinking"}}:
            return (Thinking(),)
        case {"type": "content_block_delta", "delta": {"type": "thinking_delta"}}:
            return (Thinking(),)
        case _:
            return _ALIVE


def _assistant(
    reading: Reading, message: AssistantMessage
) -> tuple[Reading, tuple[AgentEvent, ...]]:
    reading = replace(reading, error=message.error or "")
    if message.model == SYNTHETIC:
        return reading, _ALIVE
    events: list[AgentEvent] = []
    abouts = dict(reading.abouts)
    for block in message.content:
        if isinstance(block, TextBlock):
            events.append(TextDone(block.text))
        elif isinstance(block, ThinkingBlock):
            events.append(Thinking())
        elif isinstance(block, ToolUseBlock):
            line = about(block.name, block.input, reading.workspace)
            abouts[block.id] = line
            events.append(ToolStarted(block.id, block.name, line))
    reading = replace(reading, abouts=MappingProxyType(abouts))
    return reading, tuple(events) or _ALIVE


def _results(message: UserMessage) -> tuple[AgentEvent, ...]:
    if isinstance(message.content, str):
        return _ALIVE
    ended = (
        ToolEnded(block.tool_use_id, bool(block.is_error))
        for block in message.content
        if isinstance(block, ToolResultBlock)
    )
    return tuple(ended) or _ALIVE


def _system(reading: Reading, message: SystemMessage) -> tuple[AgentEvent, ...]:
    data = message.data
    match message.subtype:
        case "api_retry":
            return (Retrying(_status(data.get("error_status"))),)
        case "thinking_tokens":
            return (Thinking(),)
        case "permission_denied":
            tool = _text(data.get("tool_use_id"))
            return (Denied(tool, _text(data.get("tool_name")), reading.abouts.get(tool, "")),)
        case _:
            return _NOTHING if _beside(message) else _ALIVE


def _result(reading: Reading, message: ResultMessage) -> tuple[AgentEvent, ...]:
    if not _ours(reading, message):
        return _ALIVE
    return (
        Ended(
            session=SessionId(message.session_id),
            is_error=message.is_error,
            text=message.result or "",
            terminal_reason=message.terminal_reason or "",
            api_error_status=message.api_error_status,
            error=reading.error,
            subtype=message.subtype,
            num_turns=message.num_turns,
            usage=_usage(message, reading.cost_before),
        ),
    )


def _ours(reading: Reading, message: ResultMessage) -> bool:
    """Whether the result ends our turn. An interrupted turn may name no prompt at all."""
    prompts = _prompts(message)
    if reading.prompt_uuid in prompts:
        return True
    injected = message.origin is not None and message.origin.get("kind") != "human"
    return reading.taken if injected or prompts else True


def _usage(message: ResultMessage, cost_before: float) -> Usage:
    used = message.usage or {}
    cost = message.total_cost_usd
    return Usage(
        input_tokens=_count(used.get("input_tokens")),
        output_tokens=_count(used.get("output_tokens")),
        cache_read_tokens=_count(used.get("cache_read_input_tokens")),
        cache_write_tokens=_count(used.get("cache_creation_input_tokens")),
        cost_usd=None if cost is None else max(0.0, cost - cost_before),
    )


def _prompts(message: Message) -> tuple[str, ...]:
    """The uuids of the prompts a message belongs to, as far as it tells."""
    if isinstance(message, SystemMessage):
        told = message.data.get("user_message_uuids")
        return tuple(str(each) for each in told) if isinstance(told, list) else ()
    several: list[str] | None = getattr(message, "user_message_uuids", None)
    one: str | None = getattr(message, "user_message_uuid", None)
    return (*(several or ()), *((one,) if one else ()))


def _session(message: Message) -> SessionId:
    if isinstance(message, SystemMessage):
        return SessionId(_text(message.data.get("session_id")))
    return SessionId(_text(getattr(message, "session_id", "")))


def _beside(message: Message) -> bool:
    if isinstance(message, TaskProgressMessage):
        return False
    return isinstance(message, SystemMessage) and message.subtype in _BESIDE


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _status(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
