"""How far an agent is shut in, and the bubblewrap arguments for it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

Level = Literal["full", "tree-only", "none"]
"""`full`: own view of the files, nothing survives. `tree-only`: all files, nothing survives.
`none`: all files, and what survives is said by the holes."""

CLI_INSIDE = Path("/opt/claude")
"""Where an isolated agent's CLI lies when its own place is not part of the system."""

SYSTEM_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
KERNEL = ("acpi", "driver", "fs", "mtrr", "scsi", "sys")
"""Of /proc, what root may write without any capability; /proc/sys would let it out.

bubblewrap itself shuts sysrq-trigger, irq and bus; it takes /proc/sys for unwritable, as its
folders are, and leaves it open."""


class Hole(StrEnum):
    """What the level in force does not hold back."""

    OUTSIDE_DAEMONS = "outside_daemons"
    """Work handed to a daemon outside (docker, at, cron, systemd-run) is not ended."""
    GUARD_KILLED = "guard_killed"
    """If the guard is killed, tools run until larkline collects them (at once, or at its start)."""
    NO_KERNEL_HELP = "no_kernel_help"
    """Not Linux: ending what an agent started is best effort."""
    ALL_FILES = "all_files"
    """The agent reads and writes all that larkline's user may."""
    HOST_PROCESSES = "host_processes"
    """The agent sees the host's processes and their arguments."""
    ROOT = "root"
    """Agents run as root."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What was proved to work here. `refusals`: what bubblewrap said where it did not."""

    level: Level
    bwrap: Path | None
    unshare_user: bool
    own_proc: bool
    holes: tuple[Hole, ...]
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What an isolated agent sees besides the system: each at its own path, `tmp` as /tmp.

    `etc` is shown as /etc (`etc_copy`). `hidden` is shut even where it lies inside something shown.
    """

    workspace: Path
    config_dir: Path
    tmp: Path
    cli_path: Path
    etc: Path | None = None
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()


def cli_inside(isolation: Isolation, cli: Path) -> Path:
    """The CLI's path as the agent sees it; `cli` has no links in it."""
    if isolation.level != "full" or cli.is_relative_to("/usr"):
        return cli
    return CLI_INSIDE


def bwrap_arguments(isolation: Isolation, view: View) -> tuple[list[str], list[str]]:
    """bubblewrap's argv in two parts, between which further binds may be put; without the command.

    Order counts: a later bind covers an earlier one.
    """
    assert isolation.bwrap is not None, "no bubblewrap at this level"
    start = [str(isolation.bwrap), "--die-with-parent", "--unshare-pid", "--new-session"]
    if isolation.unshare_user:
        start.append("--unshare-user")
    if isolation.level == "full":
        return [*start, *_own_view(isolation, view)], [
            *(word for path in _masks(view) for word in ("--remount-ro", str(path))),
            "--remount-ro", "/", "--chdir", str(view.workspace), "--cap-drop", "ALL",
        ]  # fmt: skip
    shown = ["--dev-bind", "/", "/"]
    if isolation.own_proc:
        shown += ["--proc", "/proc"]
    shown += ["--bind", str(view.tmp), "/tmp"]  # noqa: S108 - the agent's own, see trap 4 of bwrap
    for path in (view.cli_path, *view.read_only):
        if path.is_relative_to("/tmp"):  # noqa: S108
            shown += ["--ro-bind", str(path), str(path)]
    for path in (view.workspace, view.config_dir, *view.read_write):
        if path.is_relative_to("/tmp"):  # noqa: S108
            shown += ["--bind", str(path), str(path)]
    return [*start, *shown], ["--chdir", str(view.workspace)]


def _own_view(isolation: Isolation, view: View) -> list[str]:
    words = ["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--ro-bind", "/usr", "/usr"]
    for name in SYSTEM_LINKS:
        path = Path("/") / name
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    if view.etc is not None:
        words += ["--ro-bind", str(view.etc), "/etc"]
    if Path("/nix/store").is_dir():
        words += ["--ro-bind", "/nix/store", "/nix/store"]
    if isolation.own_proc:
        words += ["--proc", "/proc"]
        words += _binds("--ro-bind", (p for n in KERNEL if (p := Path("/proc") / n).exists()))
    else:
        words += ["--ro-bind", "/proc", "/proc"]
    words += ["--dev", "/dev", "--dir", "/run", "--dir", "/var", "--dir", "/home", "--dir", "/opt"]
    words += ["--bind", str(view.tmp), "/tmp"]  # noqa: S108
    words += _binds("--ro-bind", view.read_only)
    for path in _masks(view):
        words += ["--tmpfs", str(path)] if path.is_dir() else ["--ro-bind", os.devnull, str(path)]
    inside = cli_inside(isolation, view.cli_path)
    if inside != view.cli_path:
        words += ["--ro-bind", str(view.cli_path), str(inside)]
    return words + _binds("--bind", (view.workspace, view.config_dir, *view.read_write))


def _binds(word: str, paths: Iterable[Path]) -> list[str]:
    return [part for path in paths for part in (word, str(path), str(path))]


def _masks(view: View) -> list[Path]:
    """The hidden paths that something shown would uncover."""
    shown = (Path("/usr"), Path("/nix/store"), *(Path("/") / n for n in SYSTEM_LINKS))
    roots = (*shown, *view.read_only)
    return [p for p in view.hidden if p.exists() and any(p.is_relative_to(r) for r in roots)]
