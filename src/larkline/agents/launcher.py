"""What an agent process is started with: its folder, its environment, its limits, its guard.

The way to a running agent: the SDK starts `cli_wrapper()` as its CLI; that is one line of shell
which drops the gateway's environment and becomes the guard; the guard reads the `launch` file in
the agent's folder, and starts bubblewrap or the CLI with what is written there.
"""

from __future__ import annotations

import hashlib
import os
import py_compile
import secrets
import shlex
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from larkline.agents import guard
from larkline.agents.etc import etc_copy
from larkline.agents.isolation import Isolation, View, bwrap_arguments, cli_inside
from larkline.agents.processes import MARKER
from larkline.domain.errors import AgentStartError, StartFault

SDK_NAMES = (
    "CLAUDE_AGENT_SDK_CLIENT_APP", "CLAUDE_AGENT_SDK_VERSION", "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING", "CLAUDE_CODE_SDK_READS_SESSION_STATE", "PWD",
)  # fmt: skip
"""Of what the SDK puts around the CLI, the names that reach it."""
GUARD_NAMES = (*SDK_NAMES, "CLAUDE_CONFIG_DIR", MARKER)
COPIED_BY_SDK = (".claude.json", ".credentials.json", "cowork_settings.json", "settings.json")
"""Files of the config folder that the SDK reads in our process when it resumes a session."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one agent; None: the machine's own.

    `processes` counts all processes of the user and does not bind root. `oom_score`: how
    gladly the kernel takes the agent (0-1000) when memory is short. `nice`: how far
    the agent steps back for larkline when the processor is short (0-19, added to larkline's own);
    a kernel that groups by session (autogroup) shares out by groups first. Agents are scheduled as
    batch work besides: they take what is free, but don't interrupt larkline when they wake up.
    """

    processes: int | None = None
    open_files: int | None = None
    core_bytes: int = 0
    oom_score: int = 500
    nice: int = 5


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of one agent process; a folder is used once.

    All paths are absolute and free of links. `marker` is `<instance>/<agent>`, and `agent_dir` is
    a new folder below the agents' root. `config_dir` is the conversation's own and stays.
    `env` is all the agent gets besides what a program needs to run; of the gateway's environment it
    gets nothing. `resume_root` is where the SDK makes its folders (`claim_resume_root`).
    """

    marker: str
    agent_dir: Path
    workspace: Path
    config_dir: Path
    resume_root: Path
    cli_path: Path
    isolation: Isolation
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    limits: Limits = Limits()
    forward_stderr: bool = True
    """Whether the agent's stderr also goes to the SDK; only with a `stderr` callback."""

    def sdk_env(self) -> dict[str, str]:
        """What to give the SDK as `env`: the guard needs these two, the rest is in the file."""
        return {MARKER: self.marker, "CLAUDE_CONFIG_DIR": str(self.config_dir)}

    def cli_wrapper(self) -> Path:
        """Make the folders and files of this start; returns what to give the SDK as `cli_path`.

        To be called once, in the process that will start the agent. Raises: AgentStartError when
        the CLI or the workspace is missing, the folder was used before or cannot be made.
        """
        if not runnable(self.cli_path):
            raise AgentStartError(
                StartFault.NO_CLI, f"Claude Code is not at {self.cli_path}: set agent.cli_path"
            )
        if not self.workspace.is_dir() or self.workspace.is_symlink():
            raise AgentStartError(StartFault.NO_WORKSPACE, f"no folder at {self.workspace}")
        try:
            return self._lay_out()
        except OSError as exc:
            why = f"the agent's folders cannot be made: {exc.strerror}: {exc.filename}"
            raise AgentStartError(StartFault.EXITED, why) from exc

    def _lay_out(self) -> Path:
        script = install_guard(self.agent_dir.parent)
        try:
            self.agent_dir.mkdir(mode=0o700)
        except FileExistsError as exc:
            raise AgentStartError(StartFault.EXITED, f"{self.agent_dir} was used before") from exc
        self.tmp.mkdir(mode=0o700)
        clean_config(self.config_dir)
        path = self.agent_dir / "launch"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for key, value in self._settings():
                file.write(os.fsencode(f"{key}\0{value}\0"))
        wrapper = self.agent_dir / "claude"
        wrapper.symlink_to(script)
        return wrapper

    @property
    def tmp(self) -> Path:
        """The agent's own temporary folder; it sees it as /tmp, or by TMPDIR at level `none`."""
        return self.agent_dir / "tmp"

    def _settings(self) -> list[tuple[str, str]]:
        found = [
            ("gateway", str(os.getpid())),
            ("config", str(self.config_dir)),
            ("resume_root", str(self.resume_root)),
            ("cli", str(cli_inside(self.isolation, self.cli_path))),
            ("forward_stderr", "1" if self.forward_stderr else "0"),
            ("oom", str(self.limits.oom_score)),
            ("nice", str(self.limits.nice)),
            ("rlimit", f"CORE={self.limits.core_bytes}"),
        ]
        if self.limits.processes is not None:
            found.append(("rlimit", f"NPROC={self.limits.processes}"))
        if self.limits.open_files is not None:
            found.append(("rlimit", f"NOFILE={self.limits.open_files}"))
        found += [("pass", name) for name in SDK_NAMES]
        found += [("env", f"{name}={value}") for name, value in self._environment().items()]
        if self.isolation.bwrap is not None:
            head, tail = bwrap_arguments(self.isolation, self._view())
            found += [("bwrap", word) for word in head] + [("bwrap_end", word) for word in tail]
        if any("\0" in value for _, value in found):
            raise AgentStartError(StartFault.EXITED, "a NUL in the agent's environment or paths")
        return found

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": PATH,
            "HOME": str(self.config_dir),
            "LANG": "C.UTF-8",
            "SHELL": "/bin/sh",
            "TMPDIR": str(self.tmp) if self.isolation.bwrap is None else "/tmp",  # noqa: S108
            **self.env,
            "CLAUDE_CONFIG_DIR": str(self.config_dir),
            MARKER: self.marker,
        }

    def _view(self) -> View:
        full = self.isolation.level == "full"
        return View(
            self.workspace, self.config_dir, self.tmp, self.cli_path,
            etc_copy(self.agent_dir.parent) if full else None,
            self.read_only, self.read_write, self.hidden,
        )  # fmt: skip


def runnable(cli: Path) -> bool:
    """Whether there is a file that we may run."""
    return cli.is_file() and os.access(cli, os.X_OK)


def claim_resume_root(root: Path) -> None:
    """Have the SDK make its temporary config folders in `root`; once, at start.

    The SDK calls `tempfile.mkdtemp` without a folder, so the choice is the whole process's; each
    agent sees only its own, because the guard binds the one it was started with.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)
    tempfile.tempdir = str(root)


def clean_config(folder: Path) -> None:
    """Make the config folder, and take links out of the way of the SDK.

    On a resume the SDK copies these files, reading them as larkline: an agent that put a link there
    would be handed what the link points to.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink():
        raise AgentStartError(StartFault.NO_WORKSPACE, f"{folder} is a link")
    for name in COPIED_BY_SDK:
        path = folder / name
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            continue
        if stat.S_ISDIR(found.st_mode):
            path.rename(folder / f"{name}.refused-{secrets.token_hex(4)}")
        else:
            path.unlink()


def install_guard(root: Path) -> Path:
    """The guard, compiled, and the script that becomes it, below `root`; made if need be.

    One script for all agents: a file that has just been written may not be executable yet, because
    another thread's fork can still hold it open.
    """
    source = Path(guard.__file__)
    tag = f"{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}.{sys.implementation.cache_tag}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    compiled = root / f"guard-{tag}.pyc"
    script = root / f"guard-{tag}.sh"
    if script.exists() and compiled.exists():
        return script
    py_compile.compile(
        str(source), str(compiled), dfile="guard.py", doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip
    passed = " ".join(f'${{{name}+"{name}=${name}"}}' for name in GUARD_NAMES)
    python = f"{shlex.quote(sys.executable)} -IS {shlex.quote(str(compiled))}"
    fresh = root / f".guard-{secrets.token_hex(8)}"  # starts run beside each other, in threads
    fresh.write_text(f'#!/bin/sh\nexec env -i {passed} {python} "${{0%/*}}" "$@"\n')
    fresh.chmod(0o700)
    fresh.replace(script)
    return script
