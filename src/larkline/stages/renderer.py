"""Folds what an agent reports into what a card shows. Pure: `now` is passed in.

Folding costs the size of the event (amortised), showing costs the size of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

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
from larkline.domain.model import CardView, Language
from larkline.texts import text

SHOWN_TOOLS = 4
"""How many lines a run of tool calls keeps; the ones before are counted."""

_KEPT_DENIALS = 10
_ABOUT_CHARS = 120
_SUMMARY_CHARS = 100

Phase = Literal["starting", "thinking", "writing", "tool", "retrying"]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool call, as a line."""

    id: str
    name: str
    about: str
    state: Literal["running", "done", "failed", "denied"] = "running"

    def line(self, language: Language) -> str:
        """The line in Markdown."""
        about = f" · {_code(self.about)}" if self.about.strip() else ""
        match self.state:
            case "denied":
                return f"🚫 {self.name}{about} · {text(language, 'card.denied')}"
            case "failed":
                return f"🔧 {self.name}{about} · {text(language, 'card.failed')}"
            case _:
                return f"🔧 {self.name}{about}"


@dataclass(frozen=True, slots=True)
class Tools:
    """A run of tool calls with no text between them; `hidden` counts those no longer shown."""

    hidden: int = 0
    shown: tuple[Tool, ...] = ()

    def with_tool(self, tool: Tool) -> Tools:
        """With a further call. Denied calls are explained, so they outlive the others."""
        shown = (*self.shown, tool)
        plain = [each for each in shown if each.state != "denied"]
        denied = len(shown) - len(plain)
        if len(plain) > SHOWN_TOOLS:
            gone = plain[0]
        elif denied > _KEPT_DENIALS:
            gone = next(each for each in shown if each.state == "denied")
        else:
            return replace(self, shown=shown)
        return Tools(self.hidden + 1, tuple(each for each in shown if each is not gone))

    def markdown(self, language: Language) -> str:
        """One line a call."""
        lines = [tool.line(language) for tool in self.shown]
        if self.hidden:
            lines.insert(0, text(language, "card.more_tools", count=self.hidden))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Rope:
    """A text that grows in small pieces; a character is copied a logarithmic number of times."""

    pieces: tuple[str, ...] = ()

    def plus(self, piece: str) -> Rope:
        """The longer text."""
        pieces = list(self.pieces)
        while pieces and len(pieces[-1]) <= len(piece):
            piece = pieces.pop() + piece
        return Rope((*pieces, piece))

    def __str__(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Draft:
    """What is known of a running turn. Times are seconds on the clock of whoever folds."""

    began_at: float
    blocks: tuple[str | Tools, ...] = ()
    draft: Rope = field(default_factory=Rope)
    phase: Phase = "starting"
    running: tuple[Tool, ...] = ()

    def fold(self, event: AgentEvent) -> Draft:
        """The state after the event."""
        match event:
            case Started() | Thinking():
                return replace(self, phase="thinking")
            case MessageStart():
                return replace(self, draft=Rope(), phase="thinking", running=())
            case TextDelta():
                return replace(self, draft=self.draft.plus(event.text), phase="writing")
            case TextDone():
                blocks = (*self.blocks, event.text) if event.text.strip() else self.blocks
                return replace(self, blocks=blocks, draft=Rope(), phase="writing")
            case ToolStarted():
                return self._with_tool(Tool(event.id, event.name, event.about))
            case Denied():
                return self._denied(Tool(event.id, event.name, event.about, "denied"))
            case ToolEnded():
                return self._ended_tool(event)
            case Retrying():
                return replace(self, phase="retrying")
            case Ended():
                return self._ended(event)
            case Alive():
                return self
            case _:
                assert_never(event)

    def answer(self, language: Language) -> str:
        """The whole document in Markdown: confirmed texts and tools in order, then the draft.

        Also the final text of a turn, once it has ended: then the texts are the exact ones.
        """
        shown = [
            block if isinstance(block, str) else block.markdown(language) for block in self.blocks
        ]
        draft = str(self.draft)
        if draft.strip():
            shown.append(draft)
        return "\n\n".join(shown)

    def status(self, now: float, language: Language) -> str:
        """One line: what happens now, and for how long the turn has been going on."""
        match self.phase:
            case "tool":
                names = list(dict.fromkeys(tool.name for tool in self.running))
                what = text(language, "card.running", tool=", ".join(names[:3]))
            case "starting" | "thinking" | "writing" | "retrying":
                what = text(language, f"card.{self.phase}")
            case _:
                assert_never(self.phase)
        return f"{what} · {elapsed(now - self.began_at)}"

    def summary(self, language: Language) -> str:
        """The preview of the answer: its first line, plain and short; the phase before any text."""
        texts = [block for block in self.blocks if isinstance(block, str)]
        line = preview(texts[0] if texts else str(self.draft))
        phase: Phase = "thinking" if self.phase == "tool" else self.phase
        return line or text(language, f"card.{phase}")

    def view(self, now: float, language: Language) -> CardView:
        """The live card: the whole answer, which the outbox cuts into pages."""
        return CardView(
            text=self.answer(language),
            status=self.status(now, language),
            live=True,
            summary=self.summary(language),
        )

    def _with_tool(self, tool: Tool) -> Draft:
        if tool.state == "denied":
            running = tuple(each for each in self.running if each.id != tool.id)
        else:
            running = (*self.running[-15:], tool)
        last = self.blocks[-1] if self.blocks else None
        if isinstance(last, Tools):
            blocks = (*self.blocks[:-1], last.with_tool(tool))
        else:
            blocks = (*self.blocks, Tools(shown=(tool,)))
        return replace(
            self, blocks=blocks, running=running, phase="tool" if running else "thinking"
        )

    def _denied(self, tool: Tool) -> Draft:
        known = self._settle_tool(tool.id, "denied")
        return known if known is not None else self._with_tool(tool)

    def _ended_tool(self, event: ToolEnded) -> Draft:
        settled = self._settle_tool(event.id, "failed" if event.failed else "done")
        if settled is not None:
            return settled
        running = tuple(each for each in self.running if each.id != event.id)
        return replace(self, running=running, phase="tool" if running else "thinking")

    def _settle_tool(
        self, tool_id: str, state: Literal["done", "failed", "denied"]
    ) -> Draft | None:
        """With the call's line in its new state; None if no line shows it. Denied stays denied."""
        for at in range(len(self.blocks) - 1, -1, -1):
            block = self.blocks[at]
            if isinstance(block, str) or all(tool.id != tool_id for tool in block.shown):
                continue
            shown = tuple(
                replace(tool, state=state)
                if tool.id == tool_id and tool.state != "denied"
                else tool
                for tool in block.shown
            )
            running = tuple(each for each in self.running if each.id != tool_id)
            return replace(
                self,
                blocks=(*self.blocks[:at], replace(block, shown=shown), *self.blocks[at + 1 :]),
                running=running,
                phase="tool" if running else "thinking",
            )
        return None

    def _ended(self, event: Ended) -> Draft:
        """A result that no text block showed is shown; an error's text is the runner's matter."""
        if event.is_error or not event.text.strip():
            return replace(self, running=())
        texts = [block for block in self.blocks if isinstance(block, str)]
        if texts and event.text.strip() in "\n\n".join(texts[-20:]):
            return replace(self, running=())
        return replace(self, blocks=(*self.blocks, event.text), draft=Rope(), running=())


def elapsed(seconds: float) -> str:
    """A duration for people: `7 s`, `1:05`, `2:00:09`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def preview(markdown: str) -> str:
    """The first line that says something, without Markdown's marks, at most 100 characters."""
    for line in markdown[:4000].splitlines():
        bare = " ".join(re.sub(r"[`*#>|~]+", " ", line).split())
        if any(char.isalnum() for char in bare):
            return bare if len(bare) <= _SUMMARY_CHARS else bare[: _SUMMARY_CHARS - 1] + "…"
    return ""


def _code(about: str) -> str:
    """A short line as a code span, whatever backticks it has."""
    line = " ".join(about[: 4 * _ABOUT_CHARS].split())
    if len(line) > _ABOUT_CHARS:
        line = line[: _ABOUT_CHARS - 1] + "…"
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{line}{pad}{fence}"
