"""Model output made safe for the platform's Markdown: text stays, powers go.

Syntax that would act (mentions, coloured fonts, any HTML tag, images the platform doesn't hold) is
turned into plain text or links. `<` is written as `&#60;`, the platform's documented escape.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_TABLES = 5
"""Tables in one card, Markdown ones included; a sixth makes the platform refuse it (11310)."""

_WORD_JOINER = "\u2060"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]?")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_RETURNS = re.compile(r"\r\n?|[\u2028\u2029]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_UNCLEAN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

_OPENING = re.compile(
    r"(?P<lead>[ \t]*(?:(?:>|[-*+]|\d{1,9}[.)])[ \t]+|>)*)(?P<run>`{3,}|~{3,})(?P<info>.*)",
    re.DOTALL,
)
_CLOSING = re.compile(r"[ \t>]*(?P<run>`{3,}|~{3,})\s*\Z")
# Bounded repeats and stripped lines: model output shall not make a pattern backtrack for long.
_RULE = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?")

_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_AUTOLINK = re.compile(r"<(?:https?://|mailto:)[^<>\s]+>|<br[ \t]*/?>", re.IGNORECASE)
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_MENTION = re.compile(r"<(?=/?at\b)", re.IGNORECASE)
_IMAGE = re.compile(r"!\[(?![^\]\n]{0,300}\]\(img_[A-Za-z0-9_-]+\))(?P<no_alt>\])?")


@dataclass(frozen=True, slots=True)
class Fence:
    """An open code block. `sure` is False where parsers differ whether it is one."""

    run: str
    info: str
    sure: bool

    def closed_by(self, line: str) -> bool:
        """True for the line that ends this block."""
        match = _CLOSING.match(line)
        if match is None:
            return False
        run = match["run"]
        return run[0] == self.run[0] and len(run) >= len(self.run)


def fence_opened_by(line: str) -> Fence | None:
    """The code block that begins with this line (which may stand in a list or a quote)."""
    if "```" not in line and "~~~" not in line:
        return None
    match = _OPENING.match(line)
    if match is None or (match["run"][0] == "`" and "`" in match["info"]):
        return None
    lead = match["lead"]
    return Fence(match["run"], match["info"].strip(), sure=not lead.strip(" ") and len(lead) < 4)


def is_table_rule(line: str, before: str) -> bool:
    """True for the row of dashes that makes a table of the row before it."""
    if "|" not in before or "-" not in line:
        return False
    return _RULE.fullmatch(line.lstrip(" \t>").rstrip()) is not None


def clean(text: str) -> str:
    """Without control characters and terminal colours; every line end is a plain one.

    The cleaned beginning of a text is the beginning of the cleaned text.
    """
    if _UNCLEAN.search(text) is None:
        return text
    text = _RETURNS.sub("\n", _ESCAPES.sub("", text))
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))


def safe_text(text: str) -> str:
    """Plain text that mentions nobody when it is sent as a text message."""
    return _MENTION.sub("<" + _WORD_JOINER, clean(text))


def safe_markdown(text: str) -> str:
    """Markdown for a card's element: acts on nothing, and its code blocks are closed.

    Code stays as it is, except that a mention tag in it is broken with an invisible character:
    parsers differ about what is code, and nobody shall be called by a quoted tag. Tables beyond
    `MAX_TABLES` become plain rows. The result may be empty.
    """
    lines: list[str] = []
    fence: Fence | None = None
    before, tables = "", 0
    for line in clean(text).split("\n"):
        if fence is not None:
            if fence.closed_by(line):
                fence = None
            lines.append(_MENTION.sub("<" + _WORD_JOINER, line))
            before = ""
            continue
        fence = fence_opened_by(line)
        if fence is not None:
            lines.append(_TAG.sub("&#60;", line))
            continue
        if is_table_rule(line, before):
            tables += 1
            if tables > MAX_TABLES:
                line = line.replace("-", "&#45;", 1)
        before = line
        lines.append(_safe_line(line))
    if fence is not None:
        lines.append(fence.run)
    return "\n".join(lines)


def plain_line(text: str, limit_chars: int) -> str:
    """The first line that says something, without Markdown's marks, for previews."""
    for line in clean(text[:4000]).split("\n"):
        bare = re.sub(r"[`*_#>|~\[\]]+", " ", line)
        bare = " ".join(bare.split())
        if any(char.isalnum() for char in bare):
            return bare if len(bare) <= limit_chars else bare[: limit_chars - 1] + "…"
    return ""


def _safe_line(line: str) -> str:
    if "<" not in line and "![" not in line:
        return line
    pieces: list[str] = []
    at = 0
    for span in _CODE_SPAN.finditer(line):
        pieces.append(_safe_prose(line[at : span.start()]))
        pieces.append(_MENTION.sub("<" + _WORD_JOINER, span[0]))
        at = span.end()
    pieces.append(_safe_prose(line[at:]))
    return "".join(pieces)


def _safe_prose(prose: str) -> str:
    prose = _IMAGE.sub(_linked, prose)
    pieces: list[str] = []
    at = 0
    for link in _AUTOLINK.finditer(prose):
        pieces.append(_TAG.sub("&#60;", prose[at : link.start()]))
        pieces.append(link[0])
        at = link.end()
    pieces.append(_TAG.sub("&#60;", prose[at:]))
    return "".join(pieces)


def _linked(image: re.Match[str]) -> str:
    return "[🖼]" if image["no_alt"] else "["
