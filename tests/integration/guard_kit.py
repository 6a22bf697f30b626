"""A data directory, stand-in payloads and a gateway of their own for the guard's tests.

Run as a program it is a gateway that starts one agent and waits to be killed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from larkline.agents.ending import read_record, survivors
from larkline.agents.isolation import Hole, Isolation, Level
from larkline.agents.launcher import Launch, claim_resume_root
from larkline.agents.probing import probe
from larkline.agents.processes import hide_from_others
from larkline.agents.sweeping import Instance, new_instance

IDLE = "echo ready; exec cat >/dev/null"
TOOL = "setsid sleep 300 & echo ready; exec cat >/dev/null"
DAEMON = """(setsid nohup sh -c 'trap "" TERM HUP INT; while :; do sleep 1; done' \
>/dev/null 2>&1 </dev/null &)
echo ready; exec cat >/dev/null"""
DEAF = """trap "" TERM INT HUP
setsid sh -c 'trap "" TERM; while :; do sleep 1; done' & echo ready
while :; do sleep 1; done"""
PAYLOADS = {"idle": IDLE, "tool": TOOL, "daemon": DAEMON, "deaf": DEAF}


_found: dict[Level, Isolation] = {}


class Place:
    """A data directory with everything an agent needs, laid out as larkline does."""

    def __init__(self, base: Path) -> None:
        self.base = base.resolve()
        self.agents = self.base / "agents"
        self.resumes = self.base / "resumes"
        for path in (self.agents, self.resumes, self.base / "workspaces", self.base / "homes"):
            path.mkdir(parents=True, exist_ok=True)
        self.instance: Instance = new_instance(self.agents)

    def payload(self, text: str) -> Path:
        """An executable that takes the CLI's place."""
        path = self.base / f"payload-{secrets.token_hex(4)}"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def launch(
        self,
        isolation: Isolation,
        cli: Path,
        *,
        conversation: str = "c0ffee0123456789",
        env: Mapping[str, str] | None = None,
    ) -> Launch:
        """One start in a conversation's folders."""
        agent = secrets.token_hex(6)
        workspace = self.base / "workspaces" / conversation
        workspace.mkdir(exist_ok=True)
        return Launch(
            marker=self.instance.marker(agent),
            agent_dir=self.agents / agent,
            workspace=workspace,
            config_dir=self.base / "homes" / conversation,
            resume_root=self.resumes,
            cli_path=cli.resolve(),
            isolation=isolation,
            env=env or {},
        )


async def spawn(launch: Launch, *arguments: str, **env: str) -> asyncio.subprocess.Process:
    """Start an agent the way the SDK does: with our whole environment and three pipes."""
    return await asyncio.create_subprocess_exec(
        launch.cli_wrapper(),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=launch.workspace,
        env={**os.environ, **launch.sdk_env(), "PWD": str(launch.workspace), **env},
    )


async def ready(process: asyncio.subprocess.Process, word: bytes = b"ready\n") -> None:
    """Wait for the payload's first line."""
    assert process.stdout is not None
    async with asyncio.timeout(20):
        line = await process.stdout.readline()
    if line != word:
        assert process.stderr is not None
        raise AssertionError(f"{line!r} {await process.stderr.read()!r}")


async def level(wanted: Level, scratch: Path) -> Isolation:
    """That level as it works here; the tests that need it fail without it."""
    if wanted == "none":
        return Isolation("none", None, False, False, (Hole.GUARD_KILLED,))
    if wanted not in _found:
        _found[wanted] = await probe(wanted, scratch)
    assert _found[wanted].level == wanted, _found[wanted].refusals
    return _found[wanted]


def of_process(pid: int, name: str) -> bytes:
    """A file of /proc/PID; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


async def until(truth: Callable[[], bool], seconds: float = 5.0) -> float:
    """Wait for a state of the kernel's that nothing announces; returns how long it took."""
    start = time.monotonic()
    while not truth():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"not within {seconds} s")
        await asyncio.sleep(0.005)
    return time.monotonic() - start


async def nothing_left(launch: Launch, seconds: float = 5.0) -> float:
    """Wait until the kernel shows no process of the agent; how long it took."""
    record = read_record(launch.agent_dir)
    return await until(lambda: not survivors(launch.marker, record), seconds)


async def gateway(base: str, wanted: str, payload: str) -> None:
    """Start one agent, say so, and wait for the end."""
    place = Place(Path(base))
    assert hide_from_others()  # as larkline does
    claim_resume_root(place.resumes)
    isolation = await level(wanted, place.agents)  # type: ignore[arg-type]
    launch = place.launch(isolation, place.payload(PAYLOADS[payload]))
    process = await spawn(launch)
    await ready(process)
    sys.stdout.write(f"{launch.marker} {launch.agent_dir}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(gateway(*sys.argv[1:4]))
