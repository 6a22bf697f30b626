"""The real CLI behind the guard, driven by the SDK, with an offline model.

Run as a program it is a gateway that has its agent run a prompt, and waits to be killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    InMemorySessionStore,
    PermissionResultAllow,
    ResultMessage,
    ToolPermissionContext,
)
from claude_agent_sdk import __file__ as sdk_file
from guard_kit import Place, level, of_process, until

from larkline.agents.isolation import Level
from larkline.agents.launcher import Launch, claim_resume_root
from larkline.agents.processes import carrying

CLI = Path(sdk_file).parent / "_bundled" / "claude"
STAY = "timeout 120 tail -f /dev/null"
LEAVE = f"(setsid nohup sh -c 'trap \"\" TERM HUP; while :; do {STAY}; done' >/dev/null 2>&1 &) ; "


def bash(command: str) -> str:
    """A prompt that makes the model run a command and repeat what it said."""
    return f"[[tool:Bash {json.dumps({'command': command})}]][[then]][[result]]"


async def allow(
    _name: str, _input: dict[str, object], _context: ToolPermissionContext
) -> PermissionResultAllow:
    """Every tool may run: what holds a hostile agent back here is the isolation alone."""
    return PermissionResultAllow()


async def cli_launch(place: Place, wanted: Level, url: str) -> Launch:
    """A start of the real CLI."""
    env = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "worthless",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    return place.launch(await level(wanted, place.agents), CLI, env=env)


def client(
    launch: Launch, store: InMemorySessionStore | None = None, resume: str | None = None
) -> ClaudeSDKClient:
    """The SDK's client for a start, not yet connected."""
    return ClaudeSDKClient(
        ClaudeAgentOptions(
            cli_path=launch.cli_wrapper(),
            cwd=launch.workspace,
            env=launch.sdk_env(),
            stderr=lambda _line: None,
            can_use_tool=allow,
            setting_sources=[],
            session_store=store,
            session_store_flush="eager",
            resume=resume,
        )
    )


async def turn(agent: ClaudeSDKClient, prompt: str) -> ResultMessage:
    """One turn to its result."""
    await agent.query(prompt)
    async with asyncio.timeout(60):
        async for message in agent.receive_response():
            if isinstance(message, ResultMessage):
                return message
    raise AssertionError("no result")


async def tool_runs(marker: str) -> None:
    """Wait until the agent is in the midst of `STAY`."""
    await until(
        lambda: any(b"tail\0-f" in of_process(pid, "cmdline") for pid in carrying(marker)),
        30,
    )


async def gateway(base: str, wanted: str, url: str, prompt: str) -> None:
    """Have an agent run a prompt that does not end."""
    place = Place(Path(base))
    claim_resume_root(place.resumes)
    launch = await cli_launch(place, wanted, url)  # type: ignore[arg-type]
    agent = client(launch)
    await agent.connect()
    await agent.query(prompt)
    await tool_runs(launch.marker)
    sys.stdout.write(f"{launch.marker} {launch.agent_dir}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(gateway(*sys.argv[1:5]))
