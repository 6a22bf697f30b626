"""An unprivileged gateway: the levels work there too, and end everything."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from guard_kit import until

from larkline.agents.ending import EndReason, read_ended, read_record, survivors

NOBODY = 65534
KIT = Path(__file__).with_name("guard_kit.py")
SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def python() -> str:
    """A Python that another user may run, or a skip that says what is missing."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; run the other tests as that user")
    python = "/usr/bin/python3"
    if shutil.which("setpriv") is None or not Path(python).exists():
        pytest.skip("needs setpriv and a system Python")
    return python


@pytest.fixture
def base() -> Iterator[Path]:
    """A data directory that belongs to nobody, the user."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="larkline-test-") as folder:
        os.chown(folder, NOBODY, NOBODY)
        yield Path(folder)


@pytest.mark.parametrize("wanted", ["full", "tree-only", "none"])
async def test_unprivileged_gateway_killed(python: str, base: Path, wanted: str) -> None:
    """As an ordinary user each level starts an agent, and a dead gateway leaves none behind."""
    gateway = await asyncio.create_subprocess_exec(
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
        python, "-B", KIT, str(base), wanted, "daemon",
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(SOURCE)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert gateway.stdout is not None
    assert gateway.stderr is not None
    async with asyncio.timeout(20):
        line = await gateway.stdout.readline()
    if not line:
        said = (await gateway.stderr.read()).decode()
        if "SyntaxError" in said or "ImportError" in said:
            pytest.skip(f"{python} is too old for larkline")
        raise AssertionError(said)
    marker, folder = line.decode().split()
    record = read_record(Path(folder))
    assert record is not None
    left = survivors(marker, record)
    assert len(left) >= 2
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in left} == {NOBODY}
    gateway.kill()
    await until(lambda: not survivors(marker, record), 2.0)
    ended = read_ended(Path(folder))
    assert ended is not None
    assert ended.reason in (EndReason.GATEWAY_GONE, EndReason.EXITED)
    await gateway.wait()


HIDE = """
import os, subprocess, sys
from larkline.agents.processes import hide_from_others
child = ["cat", "/proc/self/environ"]
assert hide_from_others()
assert b"secret-of" in subprocess.run(child, capture_output=True, check=True).stdout
for name in ("environ", "maps", "fd/0", "mem", "cwd/."):
    try:
        subprocess.run(["cat", f"/proc/{os.getpid()}/{name}"], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        assert b"Permission denied" in error.stderr, error.stderr
    else:
        sys.exit(f"{name} is open")
print("shut")
"""


async def test_a_gateway_can_hide_its_secrets(python: str) -> None:
    """Processes of its own user read nothing of it; what it starts is not affected."""
    process = await asyncio.create_subprocess_exec(
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
        python, "-B", "-c", HIDE, cwd="/",
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(SOURCE), "KEY": "secret-of-mine"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert out == b"shut\n", err.decode()
