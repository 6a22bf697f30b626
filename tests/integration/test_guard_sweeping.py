"""What earlier runs left behind goes; what others own stays."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest
from guard_kit import DAEMON, IDLE, Place, level, ready, spawn, until

from larkline.agents.ending import end_tree, guard_ended, read_record, survivors
from larkline.agents.launcher import claim_resume_root, install_guard
from larkline.agents.processes import stat_fields
from larkline.agents.removal import remove_folder
from larkline.agents.sweeping import Orphans, become_subreaper, new_instance, sweep


@pytest.fixture(autouse=True)
def _subreaper() -> None:
    """The tests' process takes orphans as the gateway does."""
    assert become_subreaper()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A fresh data directory."""
    return Place(tmp_path)


def old(path: Path) -> Path:
    """The same, as if from an hour ago."""
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    return path


async def test_daemons_of_a_dead_run_go(place: Place) -> None:
    """After gateway and guard were killed together, the next start ends what lives on."""
    launch = place.launch(await level("none", place.agents), place.payload(DAEMON))
    process = await spawn(launch)
    await ready(process)
    process.kill()
    await guard_ended(launch)
    left = survivors(launch.marker, read_record(launch.agent_dir))
    assert left
    swept = await sweep(new_instance(place.agents), place.agents, place.resumes, (), at_start=True)
    assert survivors(launch.marker, read_record(launch.agent_dir)) == ()
    assert swept.processes >= len(left)  # the daemon starts a new sleep each second
    assert not launch.agent_dir.exists()
    await process.wait()


async def test_live_agents_stay(place: Place) -> None:
    """A sweep touches neither the agents it is told of nor their folders."""
    launch = place.launch(await level("full", place.agents), place.payload(IDLE))
    mine = place.resumes / "claude-resume-mine"
    mine.mkdir()
    process = await spawn(launch, CLAUDE_CONFIG_DIR=str(mine))
    await ready(process)
    old(mine)
    old(launch.agent_dir)
    await sweep(place.instance, place.agents, place.resumes, {launch.agent_dir.name})
    assert process.returncode is None
    assert mine.is_dir()
    assert launch.agent_dir.is_dir()
    await end_tree(launch)


async def test_forgotten_agents_go(place: Place) -> None:
    """An agent of this run that nobody owns any more is ended by the minute's sweep."""
    launch = place.launch(await level("full", place.agents), place.payload(IDLE))
    await ready(await spawn(launch))
    swept = await sweep(place.instance, place.agents, place.resumes, ())
    assert swept.processes >= 3
    assert survivors(launch.marker, read_record(launch.agent_dir)) == ()


async def test_another_larkline_stays(place: Place, tmp_path: Path) -> None:
    """Agents of another data directory on the same machine are not ours to end."""
    neighbour = Place(tmp_path / "neighbour")
    launch = neighbour.launch(await level("full", place.agents), neighbour.payload(IDLE))
    await ready(await spawn(launch))
    before = survivors(launch.marker, read_record(launch.agent_dir))
    swept = await sweep(place.instance, place.agents, place.resumes, (), at_start=True)
    assert swept.processes == 0
    assert survivors(launch.marker, read_record(launch.agent_dir)) == before
    await end_tree(launch)


async def test_folders_by_age(place: Place) -> None:
    """While larkline runs only folders that are old go, so that none in the making is lost."""
    install_guard(place.agents)
    stale = [place.agents / "aaaa", place.resumes / "claude-resume-aaaa"]
    fresh = [place.agents / "bbbb", place.resumes / "claude-resume-bbbb"]
    other = place.resumes / "tmpabc"
    for folder in (*stale, *fresh, other):
        folder.mkdir()
    for folder in (*stale, other):
        old(folder)
    assert (await sweep(place.instance, place.agents, place.resumes, ())).folders == 2
    assert [path.exists() for path in (*stale, *fresh, other)] == [False, False, True, True, True]
    await sweep(place.instance, place.agents, place.resumes, (), at_start=True)
    assert not any(path.exists() for path in (*fresh, other))
    assert len(list(place.agents.iterdir())) == 2  # the guard and its script


async def test_sweep_follows_no_link(place: Place, tmp_path: Path) -> None:
    """Links in what is removed, or in its place, never lead a sweep outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    gone = place.agents / "aaaa"
    gone.mkdir()
    (gone / "link").symlink_to(outside)
    (place.agents / "bbbb").symlink_to(outside)
    await sweep(place.instance, place.agents, place.resumes, (), at_start=True)
    assert (outside / "kept").exists()
    assert not gone.exists()


def test_shut_folders_go(tmp_path: Path) -> None:
    """A folder goes although an agent took its own rights away."""
    folder = tmp_path / "agent"
    (folder / "tmp" / "deep" / "deeper").mkdir(parents=True)
    for path in (folder / "tmp" / "deep", folder / "tmp", folder):
        path.chmod(0)
    assert remove_folder(folder)


def test_deep_folders_go(tmp_path: Path) -> None:
    """However deep an agent nested its folders: removed, and nothing outside is touched."""
    folder, outside = tmp_path / "agent", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "kept").write_text("")
    at = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.symlink(outside, "link", dir_fd=at)
        os.mkdir("d", dir_fd=at)
        deeper = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(at)
    assert remove_folder(folder)
    assert not folder.exists()
    assert (outside / "kept").exists()


async def test_orphans_are_collected(place: Place) -> None:
    """Zombies that came to us go at the second look; children of asyncio stay its own."""
    orphans = Orphans()
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c",
        "import os,sys\nif not (pid := os.fork()):\n sys.stdin.read()\n os._exit(0)\n"
        "print(pid, flush=True); os._exit(0)",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stdin is not None
    orphan = int(await parent.stdout.readline())
    parent.stdin.close()
    await until(lambda: stat_fields(orphan)[:2] == ["Z", str(os.getpid())])
    orphans.reap()
    assert stat_fields(orphan)
    orphans.reap()
    assert stat_fields(orphan) == []
    assert await parent.wait() == 0


def test_resume_root_is_where_the_sdk_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the claim a folder made as the SDK makes it lies in our place, for us alone."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    claim_resume_root(tmp_path / "resumes")
    made = Path(tempfile.mkdtemp(prefix="claude-resume-"))
    assert made.parent == tmp_path / "resumes"
    assert (tmp_path / "resumes").stat().st_mode & 0o077 == 0
