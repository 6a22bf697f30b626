"""Workspaces: one per conversation, a repository each, and no way out of them for larkline."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from larkline.agents.workspace import WorkspaceError, WorkspaceFault, Workspaces
from larkline.domain.model import ConversationId

ONE = ConversationId("0123456789abcdef")
TWO = ConversationId("fedcba9876543210")


@pytest.fixture
def workspaces(tmp_path: Path) -> Workspaces:
    """Workspaces in a folder that does not exist yet."""
    return Workspaces.at(tmp_path / "deep" / "workspaces")


def git(folder: Path, *arguments: str) -> str:
    """What git says there."""
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every name below, with its kind and time of change."""
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in folder.rglob("*")
    }


async def test_is_a_repository_with_one_commit(workspaces: Workspaces) -> None:
    """A new workspace is clean, has one empty commit by larkline, and can be committed to."""
    path = await workspaces.open(ONE)
    assert path == workspaces.root / ONE
    assert git(path, "log", "--format=%an|%s") == "larkline|Begin the workspace"
    assert git(path, "status", "--porcelain") == ""
    assert git(path, "config", "--local", "user.name") == "larkline"
    assert list((path / ".git").glob("hooks/*")) == []
    assert oct(path.stat().st_mode)[-3:] == "700"
    assert sorted(p.name for p in workspaces.root.iterdir()) == [ONE]


async def test_repeats_change_nothing(workspaces: Workspaces) -> None:
    """Opening again touches nothing, not even a dirty tree."""
    path = await workspaces.open(ONE)
    (path / "work").write_text("half done")
    before = snapshot(path)
    assert await workspaces.open(ONE) == path
    assert snapshot(path) == before


async def test_together(workspaces: Workspaces) -> None:
    """Ten openers at once find one repository with one commit, and leave no scraps."""
    paths = await asyncio.gather(*(workspaces.open(ONE) for _ in range(10)))
    assert set(paths) == {workspaces.root / ONE}
    assert git(paths[0], "rev-list", "--count", "HEAD") == "1"
    assert sorted(p.name for p in workspaces.root.iterdir()) == [ONE]


async def test_conversations_have_their_own(workspaces: Workspaces) -> None:
    """Two conversations never share a folder."""
    assert await workspaces.open(ONE) != await workspaces.open(TWO)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../../etc", "0123456789abcde/", "0123456789ABCDEF", "0123456789abcdef0",
     "0123456789abcdef\n", "/etc/passwd", "0123456789abcde\0"],
)  # fmt: skip
async def test_other_names_are_refused(workspaces: Workspaces, name: str) -> None:
    """Only sixteen hexadecimal digits name a workspace."""
    with pytest.raises(WorkspaceError) as caught:
        await workspaces.open(ConversationId(name))
    assert caught.value.fault is WorkspaceFault.BAD_NAME
    assert list(workspaces.root.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "dangling", "file", "fifo"])
async def test_what_is_no_folder_is_refused(
    workspaces: Workspaces, tmp_path: Path, kind: str
) -> None:
    """A link or file in the place of a workspace is an error, and nothing is made behind it."""
    outside = tmp_path / "outside"
    place = workspaces.root / ONE
    if kind == "file":
        place.write_text("")
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        if kind == "link":
            outside.mkdir()
        place.symlink_to(outside)
    with pytest.raises(WorkspaceError) as caught:
        async with asyncio.timeout(5):
            await workspaces.open(ONE)
    assert caught.value.fault is WorkspaceFault.NOT_A_FOLDER
    assert not outside.exists() or list(outside.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "dangling", "file", "hostile"])
async def test_git_folder_is_the_agents(workspaces: Workspaces, tmp_path: Path, kind: str) -> None:
    """What an agent made of `.git` is left alone: not followed, not run, not repaired."""
    path = await workspaces.open(ONE)
    outside = tmp_path / "outside"
    if kind == "hostile":
        with (path / ".git" / "config").open("a") as config:
            config.write(f'[core]\n\tfsmonitor = "touch {outside}"\n\tpager = touch {outside}\n')
    else:
        (path / ".git").rename(tmp_path / "away")
        if kind == "file":
            (path / ".git").write_text(f"gitdir: {outside}\n")
        else:
            if kind == "link":
                outside.mkdir()
            (path / ".git").symlink_to(outside)
    before = snapshot(path)
    await workspaces.open(ONE)
    assert snapshot(path) == before
    assert not outside.exists() or list(outside.iterdir()) == []


async def test_deleted_repository_comes_back(workspaces: Workspaces) -> None:
    """A workspace whose `.git` is gone gets a new one; its files stay."""
    path = await workspaces.open(ONE)
    (path / "work").write_text("kept")
    (path / ".git").rename(workspaces.root.parent / "away")
    await workspaces.open(ONE)
    assert git(path, "status", "--porcelain") == "?? work"


async def test_nobodys_settings_count(
    workspaces: Workspaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the user's git settings nor variables of larkline's environment have a say."""
    trap = tmp_path / "trap"
    home = tmp_path / "home"
    hooks = home / "template" / "hooks"
    hooks.mkdir(parents=True)
    hook = hooks / "post-commit"
    hook.write_text(f"#!/bin/sh\ntouch {trap}\n")
    hook.chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[init]\n\ttemplateDir = {home}/template\n\tdefaultBranch = strange\n"
        f"[core]\n\thooksPath = {hooks}\n[commit]\n\tgpgSign = true\n"
        "[and = broken"  # whoever reads it fails
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    path = await workspaces.open(ONE)
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not trap.exists()
    assert not (tmp_path / "elsewhere").exists()
    assert git(path, "branch", "--show-current") == "main"


async def test_without_git(workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without git gives a typed error and no half-made repository."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(WorkspaceError) as caught:
        await workspaces.open(ONE)
    assert caught.value.fault is WorkspaceFault.NO_GIT
    assert sorted(p.name for p in workspaces.root.iterdir()) == [ONE]
    assert list((workspaces.root / ONE).iterdir()) == []


async def test_unusable_root(tmp_path: Path) -> None:
    """A root that cannot be made names the setting."""
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match=r"workspaces\.root") as caught:
        Workspaces.at(tmp_path / "file" / "workspaces")
    assert caught.value.fault is WorkspaceFault.UNWRITABLE


async def test_scraps_of_a_killed_run_go(workspaces: Workspaces) -> None:
    """What a run that was killed in the making of a repository left is removed at the next."""
    scrap = workspaces.root / f".new-{ONE}-0011aabb"
    (scrap / ".git").mkdir(parents=True)
    path = await workspaces.open(TWO)
    Workspaces.at(workspaces.root)
    assert list(workspaces.root.iterdir()) == [path]
