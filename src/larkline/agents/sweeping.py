"""What earlier runs and accidents left behind: processes, folders, orphans to collect."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import math
import os
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from larkline.agents.ending import collect, read_record
from larkline.agents.etc import PREFIX
from larkline.agents.processes import all_gone, carrying, kill, living, pids, stat_fields
from larkline.agents.removal import remove_folder

PR_SET_CHILD_SUBREAPER: Final = 36
GRACE_SECONDS: Final = 1.0
"""Guards end by themselves within 0.5 s of their gateway's end; after this they are killed."""
KILL_SECONDS: Final = 5.0
STALE_SECONDS: Final = 600.0
"""Age from which a folder that nobody owns is removed while larkline runs."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One run of a gateway over one data directory: names whose processes are whose.

    `home` is the same for every run over the same folder, so that a run knows its forerunners'
    processes and never takes those of another larkline on the machine.
    """

    home: str
    run: str

    def marker(self, agent: str) -> str:
        """The marker of an agent: its folder's name after this run's name."""
        return f"{self.home}.{self.run}/{agent}"


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found and removed; `left` are processes, `failed` folders that would not go."""

    processes: int = 0
    folders: int = 0
    left: tuple[int, ...] = ()
    failed: tuple[Path, ...] = ()


@dataclass(slots=True)
class Orphans:
    """Processes that came to us because we are the subreaper and their own parent is gone.

    Others' children (the SDK's, asyncio's) are collected by them within moments; so a zombie that
    is still there at the next look belongs to nobody.
    """

    seen: set[tuple[int, str]] = field(default_factory=set)

    def reap(self) -> int:
        """Collect zombies of ours that were there at the last call too; how many."""
        me = str(os.getpid())
        zombies = set()
        for pid in pids():
            fields = stat_fields(pid)
            if fields and fields[0] == "Z" and fields[1] == me:
                zombies.add((pid, fields[19]))
        due = zombies & self.seen
        collect(pid for pid, _ in due)
        self.seen = zombies - due
        return len(due)


def new_instance(agents_root: Path) -> Instance:
    """A name for this run; `agents_root` is the folder of all agents' folders."""
    home = hashlib.sha256(os.fsencode(agents_root.resolve())).hexdigest()[:12]
    return Instance(home, secrets.token_hex(4))


def become_subreaper() -> bool:
    """Have orphans of our tree come to us instead of init; False where there is no such thing."""
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    return prctl is not None and prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


async def sweep(
    instance: Instance,
    agents_root: Path,
    resume_root: Path,
    live: Collection[str],
    *,
    at_start: bool = False,
) -> Swept:
    """End processes and remove folders that no live agent owns; `live` names agents' folders.

    An agent is named in `live` before its start and until after `end_tree`. At start everything
    there is goes (the caller holds the data directory's lock); later only what is old enough not to
    be in the making. Repeatable. Takes over `GRACE_SECONDS` only if it finds processes.
    """
    found, left = await _sweep_processes(instance, live)
    doomed = await asyncio.to_thread(_unowned, agents_root, resume_root, live, at_start)
    failed = tuple([path for path in doomed if not await asyncio.to_thread(remove_folder, path)])
    return Swept(found, len(doomed) - len(failed), left, failed)


async def _sweep_processes(
    instance: Instance, live: Collection[str]
) -> tuple[int, tuple[int, ...]]:
    unowned = await asyncio.to_thread(_unowned_processes, instance, live)
    if not unowned:
        return 0, ()
    await all_gone(unowned, GRACE_SECONDS)
    seen = set(unowned)
    loop = asyncio.get_running_loop()
    until = loop.time() + KILL_SECONDS
    # Again and again, because one may have started another just before it was killed.
    while still := await asyncio.to_thread(_unowned_processes, instance, live):
        seen |= still
        if loop.time() >= until:
            break
        kill(still)
        await all_gone(still, until - loop.time())
        collect(still)
    return len(seen), tuple(sorted(still))


def _unowned_processes(instance: Instance, live: Collection[str]) -> set[int]:
    """By the marker: whoever is in a namespace goes with its init, which carries it too."""
    run = instance.marker("")
    found = set()
    for pid, marker in carrying(f"{instance.home}.").items():
        if not marker.startswith(run) or marker.removeprefix(run) not in live:
            found.add(pid)
    found.discard(os.getpid())
    return found


def _unowned(
    agents_root: Path, resume_root: Path, live: Collection[str], at_start: bool
) -> list[Path]:
    before = time.time() if at_start else time.time() - STALE_SECONDS
    in_use, doomed = set(), []
    for folder in _folders(agents_root):
        if folder.name.startswith(PREFIX) and not at_start:
            continue  # agents may be looking at it
        record = read_record(folder)
        if folder.name in live or (record is not None and living(record.pid, record.start)):
            in_use.add(record.resume if record is not None else "")
        elif _changed(folder) <= before:
            doomed.append(folder)
    for folder in _folders(resume_root):
        ours = at_start or folder.name.startswith("claude-resume-")
        if ours and folder.name not in in_use and _changed(folder) <= before:
            doomed.append(folder)
    return doomed


def _changed(folder: Path) -> float:
    try:
        return folder.lstat().st_mtime
    except FileNotFoundError:
        return math.inf  # its owner was quicker


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
