"""Removing folders of agents, which may have made of them what they liked."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_folder(path: Path) -> bool:
    """Remove a folder whatever its former owner did to it; False if it stays.

    However deep it is and whatever rights its owner took away; never follows links. Only for
    folders whose agent is gone. May take long: use a thread.
    """
    try:
        remove_below(path.name, parent=path.parent)
    except FileNotFoundError:
        return True
    except OSError:
        return not os.path.lexists(path)
    return True


def remove_below(name: str, *, parent: Path | None = None, at: int | None = None) -> None:
    """Remove the folder `name` in `parent`, or in the open folder `at`. Raises: OSError.

    Neither recursion nor a descriptor a level: folders inside are moved up and then emptied.
    """
    above = os.open(parent, _FOLDER) if parent is not None else at
    assert above is not None, "a folder to look in"
    try:
        root = _enter(name, above)
        try:
            _empty(root)
        finally:
            os.close(root)
        os.rmdir(name, dir_fd=above)
    finally:
        if parent is not None:
            os.close(above)


def _empty(root: int) -> None:
    prefix = f".{secrets.token_hex(8)}-"
    made = 0
    waiting = _take_files(root)
    while waiting:
        name = waiting.pop()
        folder = _enter(name, root)
        try:
            for inner in _take_files(folder):
                made += 1
                os.rename(inner, f"{prefix}{made}", src_dir_fd=folder, dst_dir_fd=root)
                waiting.append(f"{prefix}{made}")
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=root)


def _take_files(folder: int) -> list[str]:
    """Remove all but the folders; returns these, made ready to be moved."""
    inner = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    for name in inner:
        os.chmod(name, 0o700, dir_fd=folder)
    return inner


def _enter(name: str, at: int) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=at)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=at)
        return os.open(name, _FOLDER, dir_fd=at)
