"""What the real CLI reported, as agent events. Recorded by tests/integration/record_golden.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from claude_agent_sdk import ResultMessage, StreamEvent, SystemMessage
from claude_agent_sdk._internal.message_parser import parse_message

from larkline.agents.translation import Reading, read
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

GOLDEN = sorted((Path(__file__).parent.parent / "golden").iterdir())
NAMES = sorted(path.stem for path in GOLDEN[0].iterdir())


def replay(version: Path, name: str) -> list[AgentEvent]:
    """The events of a recorded turn; those that only say that it lives are left out."""
    head, *frames = map(json.loads, (version / f"{name}.jsonl").read_text().splitlines())
    reading = Reading(head["prompt_uuid"], head["workspace"])
    events: list[AgentEvent] = []
    for frame in frames:
        message = parse_message(frame)
        if message is None:
            continue
        reading, found = read(reading, message)
        events += found
        if found and isinstance(found[-1], Ended):
            break
    return [event for event in events if not isinstance(event, Alive)]


def texts(events: list[AgentEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDone)]


@pytest.mark.parametrize("version", GOLDEN, ids=lambda path: path.name)
@pytest.mark.parametrize("name", NAMES)
def test_every_turn_begins_and_ends_once(version: Path, name: str) -> None:
    """`Started` first, `Ended` last, of one session; what is done replaces its own draft."""
    events = replay(version, name)
    assert isinstance(events[0], Started)
    assert events[0].version == version.name
    assert isinstance(events[-1], Ended)
    assert events[-1].session == events[0].session
    assert sum(isinstance(event, Started | Ended) for event in events) == 2
    draft = ""
    for event in events:
        if isinstance(event, MessageStart):
            draft = ""
        elif isinstance(event, TextDelta):
            draft += event.text
        elif isinstance(event, TextDone):
            assert event.text == draft
            draft = ""


@pytest.mark.parametrize("version", GOLDEN, ids=lambda path: path.name)
def test_turns_say_what_happened(version: Path) -> None:
    """Each recorded turn, event by event where it matters."""
    events = replay(version, "text")
    assert texts(events) == ["hello there, friend"]
    assert isinstance(events[1], MessageStart)
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert (ended.text, ended.terminal_reason) == ("hello there, friend", "completed")
    assert ended.usage.output_tokens > 0
    assert ended.usage.cost_usd

    assert Thinking() in replay(version, "thinking")
    assert texts(replay(version, "thinking")) == ["so"]

    events = replay(version, "tool")
    (tool,) = [event for event in events if isinstance(event, ToolStarted)]
    assert (tool.name, tool.about) == ("Bash", "echo hi")
    assert ToolEnded(tool.id, failed=False) in events
    assert texts(events) == ["let me look", "hi"]

    (tool,) = [e for e in replay(version, "edit") if isinstance(e, ToolStarted)]
    assert (tool.name, tool.about) == ("Write", "a.txt")

    events = replay(version, "denied_by_rule")
    (tool,) = [event for event in events if isinstance(event, ToolStarted)]
    assert Denied(tool.id, "Bash", "rm foo") in events
    assert ToolEnded(tool.id, failed=True) in events

    # The broker forbids the CLI's own second try; this one shows as a new message.
    assert texts(replay(version, "cut_once")) == ["one two three four"]

    events = replay(version, "refused")
    assert texts(events) == []
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert ended.is_error
    assert (ended.api_error_status, ended.error) == (529, "server_error")


@pytest.mark.parametrize("version", GOLDEN, ids=lambda path: path.name)
def test_other_works_words_are_not_the_answer(version: Path) -> None:
    """Neither a subagent's text nor a turn that the CLI ran by itself."""
    events = replay(version, "subagent")
    assert texts(events) == ["above"]
    assert [e.name for e in events if isinstance(e, ToolStarted)] == ["Task"]
    assert texts(replay(version, "own_turn_before")) == ["mine"]
    assert texts(replay(version, "background")) == ["started"]


def system(subtype: str, **data: object) -> SystemMessage:
    return SystemMessage(subtype=subtype, data={"type": "system", "subtype": subtype, **data})


def result(**changes: object) -> ResultMessage:
    usual: dict[str, object] = {
        "subtype": "success",
        "duration_ms": 1,
        "duration_api_ms": 1,
        "is_error": False,
        "num_turns": 1,
        "session_id": "s",
    }
    return ResultMessage(**{**usual, **changes})  # type: ignore[arg-type]


def test_retries_and_pings() -> None:
    """A retry of the CLI's own shows; a ping is no sign of life."""
    taken = Reading("u", "/w", taken=True)
    assert read(taken, system("api_retry", error_status=529))[1] == (Retrying(529),)
    assert read(taken, system("api_retry", error_status=None))[1] == (Retrying(None),)
    assert read(taken, StreamEvent("x", "s", {"type": "ping"}))[1] == ()
    assert read(taken, system("mirror_error"))[1] == ()
    assert read(taken, system("anything_new"))[1] == (Alive(),)


def test_whose_result_it_is() -> None:
    """By the prompt's uuid; an interrupted turn may name none; others' are not ours."""

    def ends(taken: bool, **changes: object) -> bool:
        events = read(Reading("u", "/w", taken=taken), result(**changes))[1]
        return isinstance(events[-1], Ended)

    assert ends(False, user_message_uuids=["u"])
    assert ends(False, user_message_uuid="u")
    assert ends(False)  # an old CLI, or an error before the turn
    assert ends(True, user_message_uuids=[])
    assert ends(True, origin={"kind": "task-notification"}, user_message_uuids=["u"])
    assert not ends(False, origin={"kind": "task-notification"})
    assert not ends(False, user_message_uuids=["other"])


def test_cost_is_the_turns_own() -> None:
    """The CLI adds up over its life; we tell the difference."""
    events = read(Reading("u", "/w", cost_before=0.5), result(total_cost_usd=0.75))[1]
    assert isinstance(events[-1], Ended)
    assert events[-1].usage.cost_usd == pytest.approx(0.25)
