"""A folder per conversation, a git repository from the start.

What lies in a workspace belongs to the agent, which may have put anything there: links, a `.git`
that is something else, settings that run commands. So larkline never runs git in it and follows no
link in it; a repository is made aside and moved in whole.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from larkline.domain.errors import LarklineError
from larkline.domain.model import ConversationId

GIT_SECONDS = 20.0
NAME, EMAIL = "larkline", "agent@larkline.invalid"
CONVERSATION = re.compile(r"[0-9a-f]{16}")


class WorkspaceFault(StrEnum):
    """Why there is no workspace."""

    BAD_NAME = "bad_name"
    NOT_A_FOLDER = "not_a_folder"
    """Something else, or a link, stands in its place; somebody must look."""
    NO_GIT = "no_git"
    GIT_FAILED = "git_failed"
    UNWRITABLE = "unwritable"


class WorkspaceError(LarklineError):
    """A conversation's workspace cannot be used."""

    def __init__(self, fault: WorkspaceFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Workspaces:
    """The workspaces below one folder, which is larkline's own and free of links in its path."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> Workspaces:
        """Make the folder if need be, once at start. Raises: WorkspaceError."""
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for scrap in root.glob(".new-*"):  # of a run that was killed
                shutil.rmtree(scrap)
        except OSError as exc:
            raise WorkspaceError(WorkspaceFault.UNWRITABLE, f"workspaces.root: {exc}") from exc
        return cls(root.resolve())

    def path(self, conversation: ConversationId) -> Path:
        """Where a conversation's workspace is or would be. Raises: WorkspaceError (BAD_NAME)."""
        if not CONVERSATION.fullmatch(conversation):
            raise WorkspaceError(WorkspaceFault.BAD_NAME, f"no conversation id: {conversation!r}")
        return self.root / conversation

    async def open(self, conversation: ConversationId) -> Path:
        """The conversation's workspace, made if need be, with a repository and a first commit.

        Repeatable, also at the same time: what is there stays as it is, `.git` too, whatever it
        is. Takes some 20 ms when a repository is made. Raises: WorkspaceError.
        """
        path = self.path(conversation)
        try:
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno in (errno.ENOTDIR, errno.ELOOP):
                raise WorkspaceError(
                    WorkspaceFault.NOT_A_FOLDER, f"{path} is a link or no folder: move it away"
                ) from exc
            raise WorkspaceError(WorkspaceFault.UNWRITABLE, f"{path}: {exc.strerror}") from exc
        try:
            if not _has(folder, ".git"):
                await self._give_repository(folder, path)
        finally:
            os.close(folder)
        return path

    async def _give_repository(self, folder: int, path: Path) -> None:
        aside = self.root / f".new-{path.name}-{secrets.token_hex(4)}"
        try:
            aside.mkdir(mode=0o700)
            await _git(aside, "init", "--quiet", "--template=", "--initial-branch=main")
            with (aside / ".git" / "config").open("a") as config:
                config.write(f"[user]\n\tname = {NAME}\n\temail = {EMAIL}\n")
            await _git(
                aside, "-c", "commit.gpgSign=false", "commit", "--quiet", "--allow-empty",
                "--no-verify", "-m", "Begin the workspace",
            )  # fmt: skip
            try:
                os.rename(aside / ".git", ".git", dst_dir_fd=folder)
            except OSError as exc:
                # Somebody was quicker: another call of ours, or the agent with its own.
                if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
        except OSError as exc:
            raise WorkspaceError(WorkspaceFault.UNWRITABLE, f"{path}: {exc.strerror}") from exc
        finally:
            await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)


def _has(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


async def _git(folder: Path, *arguments: str) -> None:
    """Run git in a folder of our own, with nobody's settings. Raises: WorkspaceError."""
    identity = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
                for what, value in (("NAME", NAME), ("EMAIL", EMAIL))}  # fmt: skip
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        **identity,
    }
    try:
        process = await asyncio.create_subprocess_exec(
            "git", "-c", f"core.hooksPath={os.devnull}", *arguments, cwd=folder, env=env,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except FileNotFoundError as exc:
        raise WorkspaceError(WorkspaceFault.NO_GIT, "git is not installed") from exc
    try:
        async with asyncio.timeout(GIT_SECONDS):
            _, said = await process.communicate()
    except TimeoutError as exc:
        raise WorkspaceError(WorkspaceFault.GIT_FAILED, f"git {arguments[0]} hangs") from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        words = said.decode(errors="replace").strip()[:200]
        raise WorkspaceError(WorkspaceFault.GIT_FAILED, f"git {arguments[0]}: {words}")
