"""What the benches share: gateways, one-shot runs of the CLI, medians, memory."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gateway_kit import Gateway

from larkline.agents.claude import bundled_cli
from larkline.sim.model import OfflineModel
from larkline.sim.platform import Platform

Figures = dict[str, object]


@asynccontextmanager
async def stage(rate: float = 0.0, **settings: str) -> AsyncIterator[Gateway]:
    """A platform, a model and a gateway that is not started yet."""
    with tempfile.TemporaryDirectory(prefix="larkline-bench-") as home:
        async with Platform() as platform, OfflineModel(rate=rate) as model:
            gateway = Gateway(platform, model, Path(home), dict(settings), own_session=True)
            try:
                yield gateway
            finally:
                await gateway.close()


async def one_shot(model: OfflineModel, home: Path, prompt: str) -> float:
    """Seconds from the start of `claude -p` to its first piece of text."""
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": os.defpath,
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home),
        "ANTHROPIC_BASE_URL": model.url,
        "ANTHROPIC_API_KEY": "one-shot",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        bundled_cli(), "-p", "--output-format", "stream-json", "--verbose",
        "--include-partial-messages",
        env=environment, cwd=home, limit=1 << 24, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(prompt.encode())
    process.stdin.close()
    first = 0.0
    async with asyncio.timeout(60):
        async for line in process.stdout:
            if not first and b'"text_delta"' in line:
                first = time.perf_counter() - began
        await process.wait()
    assert first, "the one-shot run said nothing"
    return first


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Least, median, 99th percentile and greatest of some values."""
    ordered = sorted(values)
    return {
        "min": round(ordered[0], digits),
        "median": round(statistics.median(ordered), digits),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], digits),
        "max": round(ordered[-1], digits),
        "n": len(ordered),
    }


def rss_mb(pid: int) -> float:
    """Resident memory of one process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no VmRSS of process {pid}")


def metric(exposition: str, name: str) -> float:
    """One sample without labels."""
    for line in exposition.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise KeyError(name)


__all__ = ["Figures", "json", "metric", "one_shot", "rss_mb", "spread", "stage"]
