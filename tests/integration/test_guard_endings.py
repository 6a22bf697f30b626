"""Whatever ends first - gateway, guard, agent - nothing of the agent is left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from guard_kit import DEAF, IDLE, PAYLOADS, TOOL, Place, level, nothing_left, ready, spawn, until

from larkline.agents.ending import (
    Ended,
    EndReason,
    TreeSurvivesError,
    end_tree,
    guard_ended,
    read_ended,
    read_record,
    survivors,
)
from larkline.agents.isolation import Level
from larkline.agents.launcher import Launch
from larkline.agents.processes import carrying, descendants, inside, started_at, stat_fields
from larkline.agents.sweeping import become_subreaper, sweep

LEVELS: tuple[Level, ...] = ("full", "tree-only", "none")
KIT = Path(__file__).with_name("guard_kit.py")


@pytest.fixture(autouse=True)
def _subreaper() -> None:
    """The tests' process takes orphans as the gateway does."""
    assert become_subreaper()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A fresh data directory."""
    return Place(tmp_path)


def agent_pid(launch: Launch) -> int:
    """The agent's own process, as the host sees it."""
    record = read_record(launch.agent_dir)
    assert record is not None
    below = descendants(record.pid)
    return below[2] if record.pidns else below[0]


@pytest.mark.parametrize("payload", list(PAYLOADS))
@pytest.mark.parametrize("wanted", LEVELS)
async def test_gateway_killed(place: Place, wanted: Level, payload: str) -> None:
    """A SIGKILLed gateway takes its agent and all the agent's daemons along within two seconds."""
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, KIT, str(place.base), wanted, payload, stdout=asyncio.subprocess.PIPE
    )
    assert gateway.stdout is not None
    async with asyncio.timeout(20):
        marker, folder = (await gateway.stdout.readline()).decode().split()
    record = read_record(Path(folder))
    assert record is not None
    assert len(survivors(marker, record)) >= 2
    gateway.send_signal(signal.SIGKILL)
    await until(lambda: not survivors(marker, record), 2.0)
    await gateway.wait()
    ended = read_ended(Path(folder))
    assert ended is not None
    assert ended.reason in (EndReason.GATEWAY_GONE, EndReason.EXITED)


@pytest.mark.parametrize("payload", ["tool", "daemon"])
@pytest.mark.parametrize("wanted", LEVELS)
async def test_agent_killed(place: Place, wanted: Level, payload: str) -> None:
    """When the agent is SIGKILLed its tools go too, and the exit code says 137."""
    launch = place.launch(await level(wanted, place.agents), place.payload(PAYLOADS[payload]))
    process = await spawn(launch)
    await ready(process)
    os.kill(agent_pid(launch), signal.SIGKILL)
    async with asyncio.timeout(5):
        assert await process.wait() == 137
    assert survivors(launch.marker, read_record(launch.agent_dir)) == ()
    assert read_ended(launch.agent_dir) == Ended(EndReason.EXITED, 137)


@pytest.mark.parametrize("payload", list(PAYLOADS))
@pytest.mark.parametrize("wanted", ["full", "tree-only"])
async def test_guard_killed(place: Place, wanted: Level, payload: str) -> None:
    """In a namespace nothing survives the SIGKILL of the guard, though nobody else acts."""
    launch = place.launch(await level(wanted, place.agents), place.payload(PAYLOADS[payload]))
    process = await spawn(launch)
    await ready(process)
    process.kill()
    await process.wait()
    await nothing_left(launch, 2.0)


@pytest.mark.parametrize("payload", list(PAYLOADS))
async def test_guard_killed_without_namespace(place: Place, payload: str) -> None:
    """Without a namespace `end_tree` ends what a killed guard has left to the gateway."""
    launch = place.launch(await level("none", place.agents), place.payload(PAYLOADS[payload]))
    process = await spawn(launch)
    await ready(process)
    process.kill()
    async with asyncio.timeout(5):
        await guard_ended(launch)  # not `process.wait()`: a tool may hold its pipes
    await end_tree(launch)
    assert survivors(launch.marker, read_record(launch.agent_dir)) == ()
    await process.wait()


@pytest.mark.parametrize("payload", list(PAYLOADS))
@pytest.mark.parametrize("wanted", LEVELS)
async def test_end_tree(place: Place, wanted: Level, payload: str) -> None:
    """`end_tree` returns when the kernel shows nothing; again is harmless."""
    launch = place.launch(await level(wanted, place.agents), place.payload(PAYLOADS[payload]))
    process = await spawn(launch)
    await ready(process)
    record = read_record(launch.agent_dir)
    assert record is not None
    await end_tree(launch)
    assert carrying(launch.marker) == {}
    assert record.pidns == "" or inside(record.pidns) == []
    await end_tree(launch)
    ended = read_ended(launch.agent_dir)
    assert ended is not None
    assert ended.reason is EndReason.STOPPED
    assert await process.wait() == ended.code == (137 if payload == "deaf" else 143)


async def test_end_tree_goes_on_when_cancelled(place: Place) -> None:
    """A cancelled `end_tree` ends the tree all the same, then reports the cancellation."""
    launch = place.launch(await level("full", place.agents), place.payload(DEAF))
    await ready(await spawn(launch))
    ending = asyncio.create_task(end_tree(launch))
    await asyncio.sleep(0.1)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert survivors(launch.marker, read_record(launch.agent_dir)) == ()


@pytest.mark.parametrize("wanted", LEVELS)
async def test_frozen_guard(place: Place, wanted: Level) -> None:
    """A stopped guard does not keep `end_tree` from ending its agent."""
    launch = place.launch(await level(wanted, place.agents), place.payload(DEAF))
    process = await spawn(launch)
    await ready(process)
    process.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(6):
        await end_tree(launch)
    assert survivors(launch.marker, read_record(launch.agent_dir)) == ()
    await process.wait()


@pytest.mark.parametrize("wanted", LEVELS)
async def test_start_cancelled_at_any_moment(place: Place, wanted: Level) -> None:
    """`end_tree` during a start leaves nothing, and what comes later starts nothing."""
    isolation = await level(wanted, place.agents)
    cli = place.payload(TOOL)
    chance = random.Random(7)
    for _ in range(25):
        launch = place.launch(isolation, cli)
        process = await spawn(launch)
        await asyncio.sleep(chance.uniform(0, 0.06))
        await end_tree(launch)
        assert survivors(launch.marker, read_record(launch.agent_dir)) == ()
        async with asyncio.timeout(5):
            await process.wait()
        assert survivors(launch.marker, read_record(launch.agent_dir)) == ()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_guard_ended_while_starting(place: Place, number: signal.Signals) -> None:
    """A guard that is killed at any moment of the start leaves no agent behind."""
    isolation = await level("full", place.agents)
    cli = place.payload(TOOL)
    chance = random.Random(11)
    for _ in range(40):
        launch = place.launch(isolation, cli)
        process = await spawn(launch)
        folder = launch.agent_dir
        await until(lambda folder=folder: (folder / "stderr.log").exists())  # type: ignore[misc]
        await asyncio.sleep(chance.uniform(0, 0.008))  # around the fork of bubblewrap's init
        process.send_signal(number)
        await until(lambda process=process: not _runs(process.pid), 5.0)  # type: ignore[misc]
        # No help from the gateway: an init that lost its parent may stay, the agent may not.
        await until(lambda launch=launch: not _payloads(launch), 2.0)  # type: ignore[misc]
        await end_tree(launch)
        assert survivors(launch.marker, read_record(launch.agent_dir)) == ()
        await process.wait()


def _runs(pid: int) -> bool:
    fields = stat_fields(pid)
    return bool(fields) and fields[0] != "Z"


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().split("/")[-1]
    except OSError:
        return ""


def _payloads(launch: Launch) -> list[int]:
    """Processes of the agent that are past bubblewrap."""
    return [
        pid
        for pid in carrying(launch.marker)
        if _program(pid) not in ("bwrap", "env", "python", "")
    ]


async def test_gateway_killed_while_starting(place: Place) -> None:
    """A gateway that is killed at any moment of a start leaves nothing behind."""
    chance = random.Random(13)
    for _ in range(8):
        gateway = await asyncio.create_subprocess_exec(
            sys.executable, KIT, str(place.base), "full", "daemon",
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        home = place.instance.home
        await until(lambda home=home: bool(carrying(f"{home}.")), 20)  # type: ignore[misc]
        await asyncio.sleep(chance.uniform(0, 0.05))
        gateway.kill()
        await gateway.wait()
        await until(lambda home=home: not carrying(f"{home}."), 2.0)  # type: ignore[misc]


async def test_not_our_child(place: Place) -> None:
    """A guard whose parent is not the gateway that made the folder starts nothing."""
    launch = place.launch(await level("none", place.agents), place.payload(IDLE))
    wrapper = launch.cli_wrapper()
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", '"$0"; exit $?', wrapper, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 70
    assert b"gateway_gone" in said
    assert read_ended(launch.agent_dir) == Ended(EndReason.GATEWAY_GONE, 70)


@pytest.mark.parametrize("wanted", LEVELS)
async def test_too_late_a_start(place: Place, wanted: Level) -> None:
    """A guard that is started after `end_tree` starts nothing."""
    launch = place.launch(await level(wanted, place.agents), place.payload("echo >ran"))
    wrapper = launch.cli_wrapper()
    await end_tree(launch)
    process = await asyncio.create_subprocess_exec(
        wrapper, stderr=asyncio.subprocess.DEVNULL, cwd=launch.workspace
    )
    assert await process.wait() == 70
    assert read_ended(launch.agent_dir) == Ended(EndReason.STOPPED, 70)
    assert not (launch.workspace / "ran").exists()


@pytest.mark.parametrize(
    "lie", ["bystander", "host namespace", "bystander's namespace", "no json", "no dict", "strings"]
)
async def test_forged_record(place: Place, lie: str) -> None:
    """Whatever an agent writes into its guard's record, nobody else is ended for it."""
    isolation = await level("full", place.agents)
    launch = place.launch(isolation, place.payload(IDLE))
    await ready(await spawn(launch))
    other = place.launch(isolation, place.payload(IDLE), conversation="fedcba9876543210")
    bystander = await spawn(other)
    await ready(bystander)
    theirs = read_record(other.agent_dir)
    assert theirs is not None
    host = Path("/proc/self/ns/pid").readlink()
    (launch.agent_dir / "guard.json").write_text(
        {
            "bystander": (other.agent_dir / "guard.json").read_text(),
            "host namespace": f'{{"pid": 1, "start": 1, "pidns": "{host}", "resume": ""}}',
            "bystander's namespace": f'{{"pid":1,"start":1,"pidns":"{theirs.pidns}","resume":""}}',
            "no json": "{",
            "no dict": "[]",
            "strings": '{"pid": "x", "start": {}, "pidns": 3, "resume": null}',
        }[lie]
    )
    if "bystander" in lie:
        with pytest.raises(TreeSurvivesError):
            await end_tree(launch)
    else:
        await end_tree(launch)
    assert carrying(launch.marker) == {}
    assert len(carrying(other.marker)) == 4
    await end_tree(other)


HUGE = "x" * 100_000
DAMAGED = {
    "infinity": ('{"pid": Infinity, "start": 1, "pidns": "", "resume": ""}', '"code": Infinity'),
    "deep": ("[" * 100_000, '"code": ' + "[" * 100_000),
    "not a pid": ('{"pid": 1e30, "start": 1, "pidns": "", "resume": ""}', '"code": 1e400'),
    "negative": ('{"pid": -1, "start": 1, "pidns": "", "resume": ""}', '"code": null'),
    "huge": (
        f'{{"pid": 1, "start": 1, "pidns": "{HUGE}", "resume": ""}}',
        f'"code": 0, "": "{HUGE}"',
    ),
    "no text": ("\udcff\udcfe", "\udcff"),
}


@pytest.mark.parametrize("how", [*DAMAGED, "fifo", "link", "folder"])
async def test_damaged_records_are_none(place: Place, how: str) -> None:
    """Whatever lies in the place of a record: it is read in bounds, and a sweep goes on."""
    folder = place.agents / "aaaa"
    folder.mkdir()
    record, status = folder / "guard.json", folder / "status.json"
    if how in DAMAGED:
        record.write_text(DAMAGED[how][0], errors="surrogateescape")
        status.write_text(f'{{"reason": "exited", {DAMAGED[how][1]}}}', errors="surrogateescape")
    for path in (record, status):
        if how == "fifo":
            os.mkfifo(path)
        elif how == "link":
            path.symlink_to("/dev/zero")
        elif how == "folder":
            path.mkdir()
    async with asyncio.timeout(5):
        assert await asyncio.to_thread(read_record, folder) is None
        assert await asyncio.to_thread(read_ended, folder) is None
        swept = await sweep(place.instance, place.agents, place.resumes, (), at_start=True)
    assert swept.folders == 1


async def test_reused_pid(place: Place) -> None:
    """A record of a process that is gone is never taken for a later one with the same pid."""
    launch = place.launch(await level("none", place.agents), place.payload(IDLE))
    launch.cli_wrapper()
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    start = started_at(bystander.pid)
    assert start is not None
    (launch.agent_dir / "guard.json").write_text(
        f'{{"pid": {bystander.pid}, "start": {start - 1}, "pidns": "", "resume": ""}}'
    )
    await end_tree(launch)
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()
