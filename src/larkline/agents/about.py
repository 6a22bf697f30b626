"""One short line about a tool call: what a person wants to see of it."""

from __future__ import annotations

import os
from collections.abc import Mapping

LONGEST_CHARS = 80

_PATHS = ("file_path", "notebook_path", "path")
# Most telling first; a tool has one or two of them.
_WORDS = ("command", "pattern", "url", "query", "description", "subject", "skill")


def about(tool: str, arguments: Mapping[str, object], workspace: str) -> str:
    """The command's first line, the path seen from the workspace, or the pattern; '' for none.

    At most `LONGEST_CHARS` characters, printable, on one line.
    """
    if tool in ("Grep", "Glob"):
        names: tuple[str, ...] = ("pattern",)
    else:
        names = (*_PATHS, *_WORDS)
    for name in names:
        value = arguments.get(name)
        if isinstance(value, str) and value.strip():
            return _line(_inside(value, workspace) if name in _PATHS else value)
    return ""


def _inside(path: str, workspace: str) -> str:
    full = os.path.normpath(path)
    if full == workspace:
        return "."
    return full.removeprefix(f"{workspace}/")


def _line(text: str) -> str:
    first = text.strip().splitlines()[0]
    line = "".join(each if each.isprintable() else " " for each in first).strip()
    return line if len(line) <= LONGEST_CHARS else line[: LONGEST_CHARS - 1] + "…"
