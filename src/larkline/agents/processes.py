"""What the kernel says about processes: who carries a marker, who is below whom, who is gone.

Everything here reads /proc and is quick (about 20 us a process); none of it waits but `gone`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

MARKER = "LARKLINE_AGENT"
"""Environment variable of everything that belongs to an agent: `<instance>/<agent>`."""
PROC = Path("/proc")
PR_SET_DUMPABLE: Final = 4


def hide_from_others() -> bool:
    """Shut this process's environment, memory and descriptors to other processes of its user.

    What it starts is open again once it runs a program of its own. Root still sees everything.
    Costs core dumps and, unless root, this process's own view of its /proc/self/fd.
    False where there is no such thing.
    """
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    return prctl is not None and prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0


def pids() -> Iterator[int]:
    """Every process this one can see."""
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on (index 0; parent 1, session 3, start 19); [] if gone."""
    try:
        return (PROC / str(pid) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def started_at(pid: int) -> int | None:
    """When it started, in clock ticks since boot; with the pid this names a process for good."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def living(pid: int, start: int) -> bool:
    """Whether exactly this process runs (a zombie does not)."""
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX" and int(fields[19]) == start


def carrying(prefix: str) -> dict[int, str]:
    """Living processes whose marker begins with `prefix`, and the marker.

    One that emptied its environment is not found: inside a namespace of its own it is gone with
    the namespace, elsewhere that is the known hole.
    """
    wanted = f"{MARKER}={prefix}".encode()
    found = {}
    for pid in pids():
        try:
            variables = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone, or of another user
        for variable in variables:
            if variable.startswith(wanted):
                found[pid] = variable[len(MARKER) + 1 :].decode(errors="replace")
                break
    return found


def inside(namespace: str) -> list[int]:
    """Living processes of a pid namespace, named as its link reads: `pid:[4026532281]`."""
    found = []
    for pid in pids():
        with contextlib.suppress(OSError):
            if str((PROC / str(pid) / "ns/pid").readlink()) != namespace:
                continue
            if (fields := stat_fields(pid)) and fields[0] not in "ZX":
                found.append(pid)
    return found


def own_namespace() -> str:
    """The pid namespace we are in, named as in `inside`; '' where there is no such thing."""
    try:
        return str((PROC / "self/ns/pid").readlink())
    except OSError:
        return ""


def descendants(root: int) -> list[int]:
    """All processes below `root`, zombies too, nearest first."""
    below: dict[int, list[int]] = {}
    for pid in pids():
        fields = stat_fields(pid)
        if fields:
            below.setdefault(int(fields[1]), []).append(pid)
    found = list(below.get(root, ()))
    for pid in found:
        found.extend(below.get(pid, ()))
    return found


def tree_rss_bytes(root: int) -> int:
    """Resident memory of a process and all below it, in bytes; shared pages count each time."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for pid in (root, *descendants(root)):
        with contextlib.suppress(OSError):
            total += int((PROC / str(pid) / "statm").read_text().split()[1]) * page
    return total


def kill(victims: Iterable[int]) -> None:
    """SIGKILL each; those that are gone already, or not ours to kill, are passed over."""
    for pid in victims:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


async def gone(pidfd: int, seconds: float | None) -> bool:
    """Wait until the process of a pidfd has ended; False if it has not within `seconds`."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True


async def all_gone(waited_for: Iterable[int], seconds: float) -> bool:
    """Wait until all these processes have ended; False if one has not within `seconds`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    for pid in waited_for:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not await gone(pidfd, max(until - loop.time(), 0)):
                return False
        finally:
            os.close(pidfd)
    return True
