"""One process per data directory."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from larkline.domain.errors import SettingsError, StoreLocked
from larkline.stores.lock import NAME, hold

HOLDER = """
import pathlib, sys
from larkline.stores.lock import hold
with hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(data_dir: Path) -> subprocess.Popen[str]:
    """Another process that holds the directory until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    """The error names the process; when that one has ended the directory is free."""
    with holder(tmp_path) as process:
        named = rf"process {process.pid} on .+ \(since 20"
        with pytest.raises(StoreLocked, match=named), hold(tmp_path):
            pass
        process.communicate(timeout=10)
    with hold(tmp_path):
        pass


def test_a_killed_holder_is_no_obstacle(tmp_path: Path) -> None:
    """The file that a killed process left does not lock anything."""
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
    assert str(process.pid) in (tmp_path / NAME).read_text()
    with hold(tmp_path):
        assert str(os.getpid()) in (tmp_path / NAME).read_text()


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    """A program started meanwhile does not keep the directory locked."""
    with hold(tmp_path):
        child = subprocess.Popen(["sleep", "30"], close_fds=False)
    try:
        with hold(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_the_directory_is_made_private(tmp_path: Path) -> None:
    """A new data directory has mode 0700, its lock 0600."""
    data_dir = tmp_path / "state" / "larkline"
    with hold(data_dir):
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir / NAME).stat().st_mode) == 0o600


def test_an_empty_or_strange_lock_file_still_names_somebody(tmp_path: Path) -> None:
    """A holder that has not signed yet is another process."""
    with hold(tmp_path):
        (tmp_path / NAME).write_text("[]")
        with pytest.raises(StoreLocked, match="another process"), hold(tmp_path):
            pass


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A path through a file is a settings error that names it."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(SettingsError, match=r"data_dir .*file/x cannot be used"),
        hold(tmp_path / "file" / "x"),
    ):
        pass


def test_leaving_by_an_error_frees_the_directory(tmp_path: Path) -> None:
    """However the block ends."""
    with pytest.raises(ZeroDivisionError), hold(tmp_path):
        raise ZeroDivisionError
    with hold(tmp_path):
        pass
