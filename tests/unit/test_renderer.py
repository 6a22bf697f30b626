"""The renderer: drafts are void at each message, texts are exact, tools are short lines."""

from __future__ import annotations

import time
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

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
from larkline.domain.model import SessionId
from larkline.stages.renderer import Draft, Rope, elapsed, preview

SESSION = SessionId("s")


def folded(*events: AgentEvent) -> Draft:
    """A draft that began at 100 and saw the events."""
    return reduce(Draft.fold, events, Draft(began_at=100.0))


def test_a_draft_is_void_at_the_next_message() -> None:
    """After a retry of the model call the text starts afresh, without the abandoned piece."""
    draft = folded(
        Started(SESSION, "m", "1"), MessageStart(), TextDelta("Hel"), TextDelta("lo"), Retrying(529)
    )
    assert draft.answer("en") == "Hello"
    draft = draft.fold(MessageStart()).fold(TextDelta("Good day"))
    assert draft.answer("en") == "Good day"


def test_a_finished_text_replaces_the_draft_exactly() -> None:
    """What was streamed does not matter once the exact text is there; later drafts follow it."""
    draft = folded(MessageStart(), TextDelta("helo"), TextDone("Hello."), TextDelta("And"))
    assert draft.answer("en") == "Hello.\n\nAnd"
    assert folded(TextDelta("x"), TextDone("")).answer("en") == ""


def test_texts_and_tools_keep_their_order() -> None:
    """Tools stand as short lines between the texts around them."""
    draft = folded(
        TextDone("First."),
        ToolStarted("1", "Bash", "ls -la"),
        ToolStarted("2", "Read", "a`b.py"),
        ToolEnded("1", failed=False),
        ToolEnded("2", failed=True),
        TextDone("Then."),
    )
    assert draft.answer("en") == (
        "First.\n\n🔧 Bash · `ls -la`\n🔧 Read · `` a`b.py `` · failed\n\nThen."
    )


def test_many_tools_are_folded_to_the_last_few_and_a_count() -> None:
    """A run of tool calls stays short however long it is; texts between runs divide them."""
    events: list[AgentEvent] = [ToolStarted(str(n), "Grep", f"p{n}") for n in range(1000)]
    draft = folded(*events, TextDone("Now."), ToolStarted("x", "Bash", "true"))
    assert draft.answer("en").split("\n") == [
        "… 996 earlier steps",
        *(f"🔧 Grep · `p{n}`" for n in range(996, 1000)),
        "",
        "Now.",
        "",
        "🔧 Bash · `true`",
    ]


def test_a_denied_tool_says_so_and_stays() -> None:
    """A refused call keeps its explanation though later calls push the others out."""
    draft = folded(ToolStarted("d", "Bash", "rm -rf /"), Denied("d", "Bash", "rm -rf /"))
    draft = draft.fold(ToolEnded("d", failed=True))
    for number in range(20):
        draft = draft.fold(ToolStarted(str(number), "Read", "x"))
    assert draft.answer("en").split("\n")[:2] == [
        "… 16 earlier steps",
        "🚫 Bash · `rm -rf /` · not permitted, so it did not run",
    ]
    assert folded(Denied("q", "Write", "/etc/x")).answer("zh").startswith("🚫 Write · `/etc/x`")


def test_the_status_names_the_phase_and_the_time() -> None:
    """The line under the answer tells what happens now and for how long."""
    draft = folded()
    assert draft.status(100.4, "en") == "Getting ready · 0 s"
    draft = draft.fold(Thinking())
    assert draft.status(112.0, "zh") == "思考中 · 12 s"
    draft = draft.fold(ToolStarted("1", "Bash", "x")).fold(ToolStarted("2", "Read", "y"))
    assert draft.status(165.0, "en") == "Running Bash, Read · 1:05"
    draft = draft.fold(ToolEnded("1", failed=False)).fold(Alive())
    assert draft.status(165.0, "en") == "Running Read · 1:05"
    draft = draft.fold(ToolEnded("2", failed=False))
    assert draft.status(165.0, "en") == "Thinking · 1:05"
    assert draft.fold(TextDelta("x")).status(165.0, "en") == "Answering · 1:05"
    assert draft.fold(Retrying(None)).status(3800.0, "en").endswith(" · 1:01:40")
    assert elapsed(-3) == "0 s"


def test_the_summary_is_one_plain_line() -> None:
    """The preview is the answer's first line without marks, or the phase before any text."""
    assert folded(Thinking()).summary("en") == "Thinking"
    assert folded(TextDelta("\n# **Done**\nmore")).summary("en") == "Done"
    assert len(preview("word " * 100)) == 100
    tools = folded(ToolStarted("1", "Bash", "x"), TextDone("Now `it` works"))
    assert tools.summary("en") == "Now it works"


def test_a_result_that_was_never_streamed_is_shown() -> None:
    """The agent's own result is the last text unless a block already showed it."""
    end = Ended(SESSION, is_error=False, text="All done.")
    assert folded(end).answer("en") == "All done."
    assert folded(TextDone("Well. All done."), end).answer("en") == "Well. All done."
    failed = Ended(SESSION, is_error=True, text="API Error")
    assert folded(TextDelta("Partly"), failed).answer("en") == "Partly"


def test_the_view_is_a_live_card() -> None:
    """A view holds the whole answer, the status and the preview."""
    view = folded(TextDelta("Hi")).view(103.0, "en")
    assert (view.text, view.status, view.live, view.summary) == (
        "Hi",
        "Answering · 3 s",
        True,
        "Hi",
    )


@given(st.lists(st.text(max_size=9)))
def test_a_rope_is_the_text_of_its_pieces(pieces: list[str]) -> None:
    """However it is put together, nothing is lost, and it stays short."""
    rope = reduce(Rope.plus, pieces, Rope())
    assert str(rope) == "".join(pieces)
    assert len(rope.pieces) <= 10


def test_a_flood_of_text_is_cheap() -> None:
    """Two megabytes in small pieces are folded in time linear in their size."""
    draft = Draft(began_at=0.0)
    began = time.perf_counter()
    for _ in range(50_000):
        draft = draft.fold(TextDelta("forty characters of a flood, more or less"))
    assert time.perf_counter() - began < 2.0
    assert len(draft.answer("en")) == 50_000 * 41
