"""Puts the fragments of changes/ into CHANGELOG.md as a new release, and removes them.

`python tools/changelog.py 0.2.0` does it, dated today; `--check` only says what is wrong with the
fragments. A fragment is `changes/<id>.<kind>.md`, one kind of `KINDS`.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "security": "Security",
    "removed": "Removed",
    "changed": "Changed",
    "added": "Added",
    "fixed": "Fixed",
}
"""In the order in which an operator who upgrades wants to know."""
MARK = "<!-- releases -->"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*\.([a-z]+)\.md")


def fragments(folder: Path) -> dict[str, list[str]]:
    """The fragments' texts by kind, in the order of their names.

    Raises: ValueError naming the fragment that is not one.
    """
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for path in sorted(folder.glob("*.md")):
        name = _NAME.fullmatch(path.name)
        if name is None or name[1] not in KINDS:
            kinds = ", ".join(KINDS)
            raise ValueError(f"changes/{path.name}: name it <id>.<kind>.md, kind of {kinds}")
        text = " ".join(path.read_text(encoding="utf-8").split())
        if not text:
            raise ValueError(f"changes/{path.name} is empty")
        found[name[1]].append(text)
    return found


def release(changelog: str, version: str, date: str, found: dict[str, list[str]]) -> str:
    """The changelog with a new release on top. Raises: ValueError."""
    if f"## {version} " in changelog:
        raise ValueError(f"CHANGELOG.md has a release {version} already")
    if MARK not in changelog:
        raise ValueError(f"CHANGELOG.md has lost its line {MARK}")
    parts = [f"## {version} ({date})\n"]
    for kind, texts in found.items():
        if texts:
            parts.append(f"\n### {KINDS[kind]}\n\n" + "".join(f"- {text}\n" for text in texts))
    if len(parts) == 1:
        raise ValueError("there are no fragments in changes/")
    return changelog.replace(MARK, f"{MARK}\n\n{''.join(parts).rstrip()}", 1)


def main() -> int:
    """Check, or write the release."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("version", nargs="?", help="the new release")
    parser.add_argument("--check", action="store_true", help="only look at the fragments")
    given = parser.parse_args()
    try:
        found = fragments(ROOT / "changes")
        if given.check:
            return 0
        if given.version is None:
            parser.error("name the new release")
        page = ROOT / "CHANGELOG.md"
        today = datetime.now(UTC).date().isoformat()
        whole = release(page.read_text(encoding="utf-8"), given.version, today, found)
    except ValueError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    page.write_text(whole, encoding="utf-8")
    for path in (ROOT / "changes").glob("*.md"):
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
