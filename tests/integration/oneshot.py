"""One run of the real Claude CLI in a world of its own: fresh home, loopback only."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

KEY = "sk-test-0123456789"


@dataclass(frozen=True)
class Run:
    """What a run printed: `events` are its JSON lines, `seconds` from spawn to exit."""

    events: list[dict[str, Any]]
    seconds: float
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        return next(e for e in reversed(self.events) if e["type"] == "result")

    @property
    def retries(self) -> list[dict[str, Any]]:
        return [e for e in self.events if e.get("subtype") == "api_retry"]

    @property
    def streamed(self) -> str:
        """The text deltas of every attempt, joined."""
        deltas = [e["event"].get("delta", {}) for e in self.events if e["type"] == "stream_event"]
        return "".join(d["text"] for d in deltas if d.get("type") == "text_delta")


def cli_path() -> Path:
    """The CLI that the SDK bundles, found without importing the SDK."""
    spec = find_spec("claude_agent_sdk")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "_bundled" / "claude"


async def ask(
    url: str, prompt: str, home: Path, *args: str, key: str = KEY, seconds: float = 60.0
) -> Run:
    """Run `claude -p` with the prompt on stdin; the workspace is `home/work`."""
    work = home / "work"
    work.mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *_argv(args),
        cwd=work,
        env=_environment(url, key, home),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=64 << 20,
    )
    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate(prompt.encode())
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    spent = asyncio.get_running_loop().time() - began
    events = [json.loads(line) for line in out.splitlines()]
    return Run(events, spent, err.decode())


def _argv(args: Sequence[str]) -> list[str]:
    fixed = ["-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages"]
    rules = ["--permission-mode", "acceptEdits", "--allowedTools=Bash(ls *),Bash(echo *)"]
    return [str(cli_path()), *fixed, *rules, *args]


def _environment(url: str, key: str, home: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / "config"),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": key,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
