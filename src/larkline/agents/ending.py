"""Ending an agent's process tree from outside, and the proof that nothing of it is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from larkline.agents.launcher import Launch
from larkline.agents.processes import (
    all_gone,
    carrying,
    gone,
    inside,
    kill,
    living,
    own_namespace,
)
from larkline.domain.errors import LarklineError
from larkline.lifecycle import to_the_end

STOP_SECONDS = 2.0
"""From SIGTERM to the guard until SIGKILL; its own patience with the agent is 1.5 s."""
KILL_SECONDS = 2.0
RECORD_BYTES = 4096
LARGEST_PID = 1 << 22
"""The kernel's own bound."""


class EndReason(StrEnum):
    """Why an agent's process tree ended, as its guard wrote it down."""

    EXITED = "exited"
    STOPPED = "stopped"
    GATEWAY_GONE = "gateway_gone"
    START_FAILED = "start_failed"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended; `code` is the agent's exit code, 128 + n for signal n."""

    reason: EndReason
    code: int


@dataclass(frozen=True, slots=True)
class Record:
    """What a guard says of itself: its process, its agent's pid namespace ('' if none)."""

    pid: int
    start: int
    pidns: str
    resume: str


class TreeSurvivesError(LarklineError):
    """Processes of an agent could not be ended; `pids` are those left."""

    def __init__(self, marker: str, pids: tuple[int, ...]) -> None:
        super().__init__(f"agent {marker}: still running: {', '.join(map(str, pids))}")
        self.pids = pids


def read_record(agent_dir: Path) -> Record | None:
    """The guard's own record; None if no guard has got as far as writing it, or it is damaged.

    Below level `full` an agent can reach this file: nobody is signalled on its word alone.
    """
    found = _told(agent_dir / "guard.json")
    try:
        record = Record(
            int(found["pid"]), int(found["start"]), str(found["pidns"]), str(found["resume"])
        )
    except (ValueError, OverflowError, KeyError, TypeError):
        return None
    return record if 0 < record.pid <= LARGEST_PID else None


def read_ended(agent_dir: Path) -> Ended | None:
    """How the agent ended; None while it runs, if its guard was killed, or it is damaged."""
    found = _told(agent_dir / "status.json")
    try:
        return Ended(EndReason(found["reason"]), int(found["code"]))
    except (ValueError, OverflowError, KeyError, TypeError):
        return None


def _told(path: Path) -> dict[str, Any]:
    """What a guard wrote there; empty if that is not there or not what a guard writes.

    The agent may have put anything in its place: a link, a pipe nobody writes to, a gigabyte.
    """
    try:
        with _opened(path) as file:
            data = file.read(RECORD_BYTES + 1)
        found = json.loads(data) if len(data) <= RECORD_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _opened(path: Path) -> BinaryIO:
    """An ordinary file, open; never waits. Raises: OSError."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(path)
    return file


def stderr_tail(agent_dir: Path, limit_bytes: int = 4000) -> str:
    """The last of what the agent and its guard wrote to stderr."""
    data = b""
    for name in ("stderr.old.log", "stderr.log"):
        with suppress(OSError), _opened(agent_dir / name) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit_bytes))
            data += file.read(limit_bytes)
    return data[-limit_bytes:].decode(errors="replace")


def survivors(marker: str, record: Record | None) -> tuple[int, ...]:
    """Living processes of an agent: by its marker, and by its namespace where it has one."""
    found = _marked(marker)
    if record is not None and record.pidns not in ("", own_namespace()):
        found.update(inside(record.pidns))
    found.discard(os.getpid())
    return tuple(sorted(found))


def _marked(marker: str) -> set[int]:
    """Those that may be killed: they carry the marker, and so does their namespace's init."""
    return {pid for pid, value in carrying(marker).items() if value == marker} - {os.getpid()}


async def end_tree(launch: Launch) -> None:
    """End the agent and all it started; returns when the kernel shows nothing of it.

    Repeatable, at any moment from `cli_wrapper()` on, also while the SDK is still starting it: a
    guard that comes later starts nothing. Takes some milliseconds if the agent has ended, else up
    to `STOP_SECONDS` + `KILL_SECONDS`. Goes on to its end when cancelled.
    Raises: TreeSurvivesError.
    """
    await to_the_end(_end_tree(launch))


async def guard_ended(launch: Launch) -> None:
    """Returns when the agent's guard has ended, by whatever cause; at once if there is none.

    Needed where a tool may hold the agent's pipes: without a namespace a killed guard leaves them
    open, and the SDK would wait for their end.
    """
    record = read_record(launch.agent_dir)
    if record is None:
        return
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if living(record.pid, record.start):
            await gone(pidfd, None)
    finally:
        os.close(pidfd)


async def _end_tree(launch: Launch) -> None:
    loop = asyncio.get_running_loop()
    # First this file, then the look at guard.json; the guard does it the other way round.
    with suppress(FileNotFoundError):
        (launch.agent_dir / "cancelled").touch()
    record = read_record(launch.agent_dir)
    if record is not None:
        await _end_guard(record, launch.marker)
    until = loop.time() + KILL_SECONDS
    while left := await asyncio.to_thread(survivors, launch.marker, record):
        remaining = until - loop.time()
        if remaining <= 0:
            raise TreeSurvivesError(launch.marker, left)
        victims = _marked(launch.marker)
        kill(victims)
        await all_gone(left, remaining)
        if record is not None:  # else they are the SDK's own child, for asyncio to collect
            collect(pid for pid in victims if pid != record.pid)


async def _end_guard(record: Record, marker: str) -> None:
    """SIGTERM, patience, SIGKILL; through a pidfd, so that it is never another process."""
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if not living(record.pid, record.start) or record.pid not in _marked(marker):
            return
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            if await gone(pidfd, seconds):
                return
    finally:
        os.close(pidfd)


def collect(dead: Iterable[int]) -> None:
    """Reap those that came to us as orphans. One by one: others' children stay theirs."""
    for pid in dead:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
