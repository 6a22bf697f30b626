"""The part of /etc that isolated agents see: one copied folder instead of thirty mounts.

A mount costs bubblewrap half a millisecond or more, and each agent start waits for them all.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

SHOWN = (
    "alternatives", "bash.bashrc", "ca-certificates", "debian_version", "gai.conf", "group",
    "host.conf", "hostname", "hosts", "inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "localtime", "mime.types", "networks", "nsswitch.conf", "os-release", "passwd",
    "pki/ca-trust/extracted", "pki/tls/cert.pem", "pki/tls/certs", "profile", "protocols",
    "resolv.conf", "services", "shells", "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf",
    "terminfo", "timezone",
)  # fmt: skip
"""What tools need; the rest (keys, shadow, other programs' settings) is not shown."""
PREFIX = "etc-"


def etc_copy(root: Path, source: Path = Path("/etc")) -> Path:
    """A folder below `root` to be shown as /etc; made anew when one of the sources has changed.

    Only what everybody may read is copied. Well under a millisecond if it is there already, some
    tens when it is made. What agents are using stays: remove old ones only when none runs.
    """
    state = hashlib.sha256()
    for name in SHOWN:
        with suppress(OSError):
            found = (source / name).stat()
            state.update(f"{name} {found.st_ino} {found.st_mtime_ns} {found.st_size}\n".encode())
    made = root / f"{PREFIX}{state.hexdigest()[:12]}"
    if made.is_dir():
        return made
    fresh = root / f".{PREFIX}{secrets.token_hex(4)}"
    fresh.mkdir(mode=0o755)
    for name in SHOWN:
        _copy(source / name, fresh / name)
    try:
        fresh.rename(made)
    except OSError:
        if not made.is_dir():
            raise
        shutil.rmtree(fresh)  # another thread was quicker
    return made


def _copy(source: Path, target: Path) -> None:
    real = Path(os.path.realpath(source))
    try:
        mode = real.stat().st_mode
        if not mode & stat.S_IROTH:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() and real.is_relative_to("/usr"):
            target.symlink_to(real)
        elif stat.S_ISREG(mode):
            shutil.copyfile(real, target)
            target.chmod(0o644)
        elif stat.S_ISDIR(mode):
            target.mkdir(mode=0o755)
            for entry in real.iterdir():
                if entry.is_symlink():
                    (target / entry.name).symlink_to(entry.readlink())
                else:
                    _copy(entry, target / entry.name)
    except (FileNotFoundError, PermissionError):
        return  # gone meanwhile or not for us: then not for the agent either
