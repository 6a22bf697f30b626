"""One process per data directory."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from larkline.domain.errors import SettingsError, StoreLocked

NAME = "larkline.lock"


@contextmanager
def hold(data_dir: Path) -> Iterator[None]:
    """Hold the directory, made with mode 0700 if need be, for the length of the block.

    The kernel drops the lock with the process, however it ends, so a file that was left behind is
    no obstacle. The file itself stays: removing it would let two processes lock two files.
    Raises: StoreLocked, with the holder; SettingsError if the directory cannot be used.
    """
    path = data_dir / NAME
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise SettingsError(f"data_dir {data_dir} cannot be used: {exc}") from exc
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StoreLocked(
                f"data_dir {data_dir} is in use by {_holder(file)}. Stop that process first, or "
                f"give this one another data_dir."
            ) from exc
        except OSError as exc:
            raise SettingsError(
                f"data_dir {data_dir} is on a file system that cannot lock files ({exc}); "
                f"choose a local one"
            ) from exc
        _sign(file)
        yield
    finally:
        os.close(file)


def _sign(file: int) -> None:
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(me).encode(), 0)


def _holder(file: int) -> str:
    try:
        data = json.loads(os.pread(file, 4096, 0))
        return f"process {data['pid']} on {data['host']} (since {data['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
