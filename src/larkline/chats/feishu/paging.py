"""Cutting a long Markdown text into pages that one card each can hold.

Greedy from the front, and a cut is decided by what stands before the place that overflows. So the
pages before the last never change while a text grows, and a page costs its own length only.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass

from larkline.chats.feishu.markdown import (
    MAX_TABLES,
    Fence,
    fence_opened_by,
    is_table_rule,
)

PAGE_BYTES = 24_000
"""JSON bytes of a page's text; the card's limit is 30 KB, the rest is room for everything else."""

_HEADER_BYTES = 1_500
_RUN_CHARS = 50
_INFO_CHARS = 50
_SLACK_BYTES = 160  # a closing fence, a defused table rule
_WORD_END = re.compile(r"[\s。！？；，、]")
_INK = re.compile(r"\S")
_NEXT_INK = re.compile(r"[^\n]")


@dataclass(frozen=True, slots=True)
class _Carry:
    """What a page takes over from the one before: an open code block or a table's head."""

    fence: Fence | None = None
    header: str = ""

    def head(self) -> str:
        if self.fence is not None:
            return self.fence.run[:_RUN_CHARS] + self.fence.info[:_INFO_CHARS] + "\n"
        return self.header


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a page ends, counted from its start, and what the next one takes over."""

    at: int
    carry: _Carry
    by_word: bool = False


def pages(text: str) -> tuple[str, ...]:
    """The text in pieces that one card each can show; at least one piece.

    Pure. A longer text that begins with `text` keeps all pieces but the last. Cuts fall on blank
    lines, else on line ends, else between words. Code blocks are closed and opened again, and a
    table that is cut repeats its head; besides that only white space at the cuts is lost.
    """
    done: list[str] = []
    start, carry = 0, _Carry()
    while True:
        # Every character costs at least a byte: a page never needs more than this.
        window = text[start : start + PAGE_BYTES + 1]
        cut = _cut(window, carry)
        if cut is None:
            done.append(carry.head() + window)
            return tuple(done)
        end = start + cut.at
        piece = carry.head() + text[start:end].rstrip()
        if cut.carry.fence is not None:
            piece += "\n" + cut.carry.fence.run[:_RUN_CHARS]
        ink = _INK.search(text, end)
        if ink is None:
            done.append(piece)
            return tuple(done)
        done.append(piece)
        start, carry = _resume(text, end, cut, ink.start())
        if start >= len(text) or _INK.search(text, start) is None:
            return tuple(done)


def _resume(text: str, end: int, cut: _Cut, ink: int) -> tuple[int, _Carry]:
    """Where the next page starts: past blank lines, and past the end of a block just closed."""
    if cut.by_word:
        return ink, cut.carry
    fence, header = cut.carry.fence, cut.carry.header
    if fence is not None:
        stop = text.find("\n", end, end + 200)
        line = text[end : stop if stop >= 0 else end + 200]
        if fence.closed_by(line):
            past = _NEXT_INK.search(text, end + len(line))
            return (past.start() if past else len(text)), _Carry()
    found = _NEXT_INK.search(text, end)
    first = found.start() if found else len(text)
    # A blank line or one without columns ends a table: its head is not needed again.
    stop = text.find("\n", first, first + 200)
    goes_on = first == end and "|" in text[first : stop if stop >= 0 else first + 200]
    return first, _Carry(fence, header if goes_on else "")


_KNOWN: OrderedDict[bytes, _Cut] = OrderedDict()
_KNOWN_LIMIT = 4096


def _cut(window: str, carry: _Carry) -> _Cut | None:
    """The cut of a page, None if it all fits. Remembered: a growing text asks again and again."""
    if len(window) <= PAGE_BYTES:
        return _find_cut(window, carry)
    key = hashlib.blake2b(repr(carry).encode("utf-8", "surrogatepass"), digest_size=16)
    key.update(window.encode("utf-8", "surrogatepass"))
    known = _KNOWN.get(key.digest())
    if known is not None:
        return known
    cut = _find_cut(window, carry)
    if cut is not None:
        _KNOWN[key.digest()] = cut
        if len(_KNOWN) > _KNOWN_LIMIT:
            _KNOWN.popitem(last=False)
    return cut


def _find_cut(window: str, carry: _Carry) -> _Cut | None:
    budget = PAGE_BYTES - _SLACK_BYTES - cost_bytes(carry.head())
    fence, header = carry.fence, carry.header
    tables = 1 if header else 0
    doubt = False  # whether parsers may differ about what is code: then all tables count
    blank: tuple[int, _Cut] | None = None  # bytes before it, the cut
    line_end: tuple[int, _Cut] | None = None
    before_rule: tuple[int, _Cut] | None = None
    used, at, before, keep_with_next = 0, 0, "", True
    while at < len(window):
        if at and not keep_with_next:
            before_rule = line_end
            line_end = (used, _Cut(at, _Carry(fence, header)))
            if fence is None and not before.strip():
                blank = line_end
        stop = window.find("\n", at)
        line = window[at : stop if stop >= 0 else len(window)]
        cost = cost_bytes(line)
        if used + cost > budget:
            if fence is None and not header and "|" in before:
                # This line may be, or may yet become, the rule that makes a head of the last one.
                line_end = before_rule or line_end
            return _best(window, at, budget - used, budget, fence, blank, line_end)
        if stop < 0:
            return None
        keep_with_next = False
        if (fence is None or doubt) and is_table_rule(line, before):
            tables += 1
            if tables > MAX_TABLES and before_rule is not None:
                return before_rule[1]
        if fence is not None:
            inner = fence_opened_by(line)
            closed = fence.closed_by(line)
            doubt = doubt or (inner is not None and not (closed and inner.sure))
            fence = None if closed else fence
        else:
            fence = fence_opened_by(line)
            keep_with_next = fence is not None
            doubt = doubt or (fence is not None and not fence.sure)
            if fence is None and is_table_rule(line, before):
                # The head stays with its table: not cut above the rule, nor right below it.
                line_end, keep_with_next = before_rule, True
                head = f"{before}\n{line}\n"
                header = head if cost_bytes(head) <= _HEADER_BYTES else ""
            elif "|" not in line:
                header = ""
        used += cost + 2
        before, at = line, stop + 1
    return None


def _best(
    window: str,
    at: int,
    room: int,
    budget: int,
    fence: Fence | None,
    blank: tuple[int, _Cut] | None,
    line_end: tuple[int, _Cut] | None,
) -> _Cut:
    """The nicest cut before the line at `at`, which has `room` bytes before it overflows."""
    if blank is not None and blank[0] >= budget // 2:
        return blank[1]
    if line_end is not None and line_end[0] >= budget // 4:
        return line_end[1]
    low, high = at, min(len(window), at + max(room, 0))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost_bytes(window[at:middle]) <= room else (low, middle - 1)
    words = [match.end() for match in _WORD_END.finditer(window, (at + low) // 2, low)]
    place = words[-1] if words else _between_clusters(window, low)
    return _Cut(max(place, 1), _Carry(fence), by_word=True)


def _between_clusters(window: str, at: int) -> int:
    """The nearest place at or a little before `at` that splits no emoji or accented letter."""
    for place in range(at, max(at - 32, 1), -1):
        if place >= len(window) or not _joined(window[place - 1], window[place]):
            return place
    return at


def _joined(left: str, right: str) -> bool:
    return (
        right in "\u200d\ufe0e\ufe0f\u20e3"
        or left == "\u200d"
        or unicodedata.combining(right) != 0
        or "\U0001f3fb" <= right <= "\U0001f3ff"
        or ("\U0001f1e6" <= left <= "\U0001f1ff" and "\U0001f1e6" <= right <= "\U0001f1ff")
    )


def cost_bytes(text: str) -> int:
    """An upper bound of the JSON bytes that `text` takes once it was made safe."""
    return (
        len(text.encode("utf-8", "surrogatepass"))
        + 4 * text.count("<")
        + 4 * text.count("!")
        + text.count('"')
        + text.count("\\")
        + text.count("\n")
        + text.count("\t")
        + text.count("\r")
    )
