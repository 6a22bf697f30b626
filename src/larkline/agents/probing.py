"""Finding out, by running it, how far agents can be shut in on this machine."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from larkline.agents.isolation import Hole, Isolation, Level, View, bwrap_arguments
from larkline.agents.processes import MARKER, all_gone, carrying, kill

PROBE_SECONDS = 5.0
GONE_SECONDS = 1.0
PAYLOAD = 'test ! -e "$0" || exit 9; setsid sleep 60 </dev/null >/dev/null 2>&1 & exit 0'
"""Fails when it can see a file that should be hidden; leaves a daemon that should not survive."""


async def probe(
    wanted: Literal["auto", "full", "tree-only"], scratch: Path, *, bwrap: Path | None = None
) -> Isolation:
    """The best level that works, no higher than wanted (`full` falls to `none` at once).

    Each try starts bubblewrap as an agent would, in a temporary folder below `scratch`, and counts
    only if a left-behind daemon is gone and, for `full`, a file outside is not to be seen. About
    10 ms where the first try works.
    """
    holes = (Hole.ROOT,) if os.geteuid() == 0 else ()
    if sys.platform != "linux":
        lost = (Hole.NO_KERNEL_HELP, Hole.ALL_FILES, *holes)
        return Isolation("none", None, unshare_user=False, own_proc=False, holes=lost)
    found = bwrap or _find_bwrap()
    refusals = [] if found else ["bwrap: not found"]
    if found is not None:
        for candidate in _candidates(wanted, found, holes):
            refusal = await _refusal(candidate, scratch)
            if refusal is None:
                return Isolation(
                    candidate.level, found, candidate.unshare_user, candidate.own_proc,
                    candidate.holes, tuple(refusals),
                )  # fmt: skip
            refusals.append(refusal)
    lost = (Hole.GUARD_KILLED, Hole.ALL_FILES, Hole.HOST_PROCESSES, *holes)
    return Isolation("none", None, False, False, lost, tuple(refusals))


def _find_bwrap() -> Path | None:
    path = shutil.which("bwrap", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
    return Path(path) if path else None


def _candidates(wanted: str, bwrap: Path, holes: tuple[Hole, ...]) -> Iterator[Isolation]:
    levels: dict[str, tuple[Level, ...]] = {
        "auto": ("full", "tree-only"), "full": ("full",), "tree-only": ("tree-only",),
    }  # fmt: skip
    for level in levels[wanted]:
        for unshare_user, own_proc in ((False, True), (True, True), (False, False), (True, False)):
            lost = [Hole.OUTSIDE_DAEMONS]
            if level == "tree-only":
                lost.append(Hole.ALL_FILES)
            if not own_proc:
                lost.append(Hole.HOST_PROCESSES)
            yield Isolation(level, bwrap, unshare_user, own_proc, (*lost, *holes))


async def _refusal(candidate: Isolation, scratch: Path) -> str | None:
    """Why it does not work here, None if it does."""
    marker = f"probe.{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory(prefix="probe-", dir=scratch) as name:
        view, secret = _lay_out(name)
        head, tail = bwrap_arguments(candidate, view)
        hidden = str(secret) if candidate.level == "full" else f"{secret}.absent"
        process = await asyncio.create_subprocess_exec(
            *head, *tail, "--", "/bin/sh", "-c", PAYLOAD, hidden,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, env={"PATH": "/usr/bin:/bin", MARKER: marker},
        )  # fmt: skip
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                _, said = await process.communicate()
        except TimeoutError:
            return f"bwrap: no answer in {PROBE_SECONDS:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            survivors = list(carrying(marker))
            survive = not await all_gone(survivors, GONE_SECONDS)
            kill(survivors)
    if process.returncode == 9:
        return "bwrap: files outside can be seen"
    if process.returncode != 0:
        return said.decode(errors="replace").strip()[:200] or f"bwrap: exit {process.returncode}"
    return "bwrap: a daemon survives" if survive else None


def _lay_out(name: str) -> tuple[View, Path]:
    """Folders for a try, and a file that should be hidden from it."""
    folder = Path(name).resolve()
    workspace, config, tmp = (folder / part for part in ("workspace", "config", "tmp"))
    for path in (workspace, config, tmp):
        path.mkdir()
    secret = folder / "secret"
    secret.touch()
    return View(workspace, config, tmp, Path("/bin/sh").resolve()), secret
