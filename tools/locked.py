"""Prints the part of requirements.lock that something needs, with its hashes.

`python tools/locked.py` prints what larkline needs to run, without what only its tests need;
`python tools/locked.py hatchling` prints a package with all that it needs. It goes by the lock's
own `# via` lines. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
PROJECT = "larkline (pyproject.toml)"
"""How the lock calls larkline's own dependencies; those of its tests have another name."""

_PIN = re.compile(r"([A-Za-z0-9._-]+)==")
_VIA = re.compile(r"^ +#(?: via)? {1,3}(\S.*)$", re.MULTILINE)


def needed(lock: str, roots: Iterable[str]) -> str:
    """The lock's entries for the roots and all they need, in its order.

    Raises: ValueError if a root is not in the lock.
    """
    blocks = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)
    entries = {found[1]: block for block in blocks if (found := _PIN.match(block))}
    wanted = set(roots)
    unknown = wanted - entries.keys() - {PROJECT}
    if unknown:
        raise ValueError(f"not in the lock: {', '.join(sorted(unknown))}")
    asked_by = {name: set(_VIA.findall(block)) for name, block in entries.items()}
    while more := {n for n, by in asked_by.items() if by & wanted} - wanted:
        wanted |= more
    return "".join(block for name, block in entries.items() if name in wanted)


def main() -> int:
    """Print it."""
    try:
        sys.stdout.write(needed(LOCK.read_text(encoding="utf-8"), sys.argv[1:] or [PROJECT]))
    except ValueError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
