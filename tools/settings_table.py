"""Writes docs/settings.md from the settings' own definitions.

`python tools/settings_table.py` writes it; with `--check` it only says whether the file is what
the code says (exit code 1 if not).
"""

from __future__ import annotations

import argparse
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from larkline.config import Section, Settings, Words, keys

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

HEAD = """\
# Settings

<!-- Made by tools/settings_table.py from larkline.config: change it there, then run the tool. -->

Every key, its default and its meaning. Sources, each winning over the one before it:
defaults, the TOML file, the environment, flags.

- **File**: `--config FILE`, else `$LARKLINE_CONFIG`, else `./larkline.toml` if it is there.
- **Environment**: `LARKLINE_SECTION__KEY`, with two underscores, for example
  `LARKLINE_LIMITS__MAX_CONCURRENT=3` or `LARKLINE_LANGUAGE=en`. A list is words with commas
  between, or JSON; a table is JSON.
- **Flags** of `larkline run`: `--data-dir`, `--host`, `--port`, `--log-level`. Secrets have none.

An unknown key and a misspelt `LARKLINE_...` name are errors that name the nearest right one;
wrong settings end the command with exit code 2. Durations are seconds unless the text says
otherwise. `(secret)` values are never shown in logs or errors.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    section = ""
    for name, field in sorted(keys(), key=lambda item: "." in item[0]):
        where, _, key = name.rpartition(".")
        if where != section or len(parts) == 1:
            section = where
            parts.append(_heading(where))
        parts.append(_row(key, field))
    return "".join(parts)


def _heading(section: str) -> str:
    title, about = "At the top", "Before the first table of the file."
    if section:
        found = Settings.model_fields[section].annotation
        assert isinstance(found, type)
        assert issubclass(found, Section)
        title, about = f"`[{section}]`", (found.__doc__ or "").strip()
    return f"\n## {title}\n\n{about}\n\n| key | default | values | meaning |\n|---|---|---|---|\n"


def _row(key: str, field: FieldInfo) -> str:
    cells = (f"`{key}`", _default(field), _values(field), field.description or "")
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |\n"


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in ("", (), {}):
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _values(field: FieldInfo) -> str:
    """What may be written, as far as the type says it."""
    kind: Any = field.annotation
    if typing.get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if kind is SecretStr:
        return "text (secret)"
    if typing.get_origin(kind) is dict:
        return "table (secret)" if SecretStr in typing.get_args(kind) else "table"
    if kind == typing.get_args(Words)[0]:
        return "list"
    if kind is bool:
        return "`true`, `false`"
    names = {str: "text", int: "number", float: "number", Path: "path"}
    if isinstance(kind, types.UnionType) or kind not in names:
        raise TypeError(f"say here how {kind!r} is written")
    return " ".join((names[kind], *_bounds(field)))


def _bounds(field: FieldInfo) -> list[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = []
    for rule in field.metadata:
        for name, sign in signs.items():
            if (bound := getattr(rule, name, None)) is not None:
                found.append(f"{sign} {bound}")
    return found


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    wanted = page()
    if not parser.parse_args().check:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    sys.stderr.write("docs/settings.md is stale: run python tools/settings_table.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
