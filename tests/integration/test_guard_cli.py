"""The guard around the real Claude Code CLI: it works, it is shut in, it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from claude_agent_sdk import InMemorySessionStore
from guard_kit import Place, until
from guard_sdk import LEAVE, STAY, bash, cli_launch, client, tool_runs, turn

from larkline.agents.ending import (
    EndReason,
    end_tree,
    guard_ended,
    read_ended,
    read_record,
    survivors,
)
from larkline.agents.isolation import Level
from larkline.agents.launcher import claim_resume_root
from larkline.agents.processes import descendants
from larkline.agents.sweeping import become_subreaper
from larkline.sim.model import OfflineModel

pytestmark = pytest.mark.cli
SECRET = "the-secret-of-another"
PROGRAM = Path(__file__).with_name("guard_sdk.py")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A data directory with things an agent must not see, and a gateway's environment."""
    assert become_subreaper()
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC_", "CLAUDE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LARKLINE_FEISHU__APP_SECRET", SECRET)
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="larkline-test-") as folder:
        place = Place(Path(folder))
        claim_resume_root(place.resumes)
        yield place
        tempfile.tempdir = None


@pytest.fixture
async def model() -> AsyncIterator[OfflineModel]:
    """The model, on loopback."""
    async with OfflineModel() as model:
        yield model


@pytest.mark.parametrize("wanted", ["full", "tree-only", "none"])
async def test_a_turn_and_its_continuation(
    place: Place, model: OfflineModel, wanted: Level
) -> None:
    """A turn runs tools, and a later process resumes the session from the store alone."""
    store = InMemorySessionStore()
    first = await cli_launch(place, wanted, model.url)
    agent = client(first, store)
    await agent.connect()
    result = await turn(agent, "begin " + bash("echo $((6*7)); git --version; pwd"))
    assert not result.is_error
    assert "42\ngit version" in str(result.result)
    assert str(first.workspace) in str(result.result)
    await agent.disconnect()
    await end_tree(first)
    second = await cli_launch(place, wanted, model.url)
    agent = client(second, store, result.session_id)
    await agent.connect()
    assert len(list(place.resumes.iterdir())) == 1
    again = await turn(agent, "go on [[text:done]]")
    assert (again.result, again.session_id) == ("done", result.session_id)
    assert any("begin" in prompt for prompt in model.requests[-1].prompts)
    await agent.disconnect()
    await end_tree(second)
    assert list(place.resumes.iterdir()) == []
    ended = read_ended(second.agent_dir)
    assert ended is not None
    assert ended.reason in (EndReason.EXITED, EndReason.STOPPED)


async def test_hostile_prompts(place: Place, model: OfflineModel) -> None:
    """Through the real CLI: no file, key or process of larkline's or another's can be had."""
    other = place.base / "workspaces" / "fedcba9876543210"
    other.mkdir()
    for path in (place.base / "larkline.toml", place.base / "larkline.db", other / "diary"):
        path.write_text(SECRET)
    launch = await cli_launch(place, "full", model.url)
    agent = client(launch, InMemorySessionStore())
    await agent.connect()
    for command in (
        f"cat {place.base}/larkline.toml {place.base}/larkline.db {other}/diary",
        f"grep -rs secret-of {place.base} /etc /root /home",
        "cat /proc/*/environ | tr '\\0' '\\n' | grep -e APP_SECRET -e secret-of",
        f"cat {launch.agent_dir}/launch; ls {place.agents}",
        f"echo x > {place.base}/larkline.toml; echo x > {other}/diary; rm -rf {other}",
        f"ln -s {place.base}/larkline.toml leak; cat leak",
        "cat /etc/shadow",
    ):
        said = str((await turn(agent, bash(f"{command}; echo over"))).result)
        assert "over" in said
        assert "secret-of-another" not in said
    read = f'[[tool:Read {{"file_path":"{place.base}/larkline.toml"}}]][[then]][[result]]'
    assert "secret-of-another" not in str((await turn(agent, read)).result)
    write = f'[[tool:Write {{"file_path":"{place.base}/new","content":"x"}}]][[then]][[result]]'
    await turn(agent, write)
    assert not (place.base / "new").exists()
    assert (place.base / "larkline.toml").read_text() == SECRET
    assert (other / "diary").read_text() == SECRET
    await turn(agent, bash(f"{LEAVE} echo over"))
    await agent.disconnect()
    await end_tree(launch)
    assert survivors(launch.marker, read_record(launch.agent_dir)) == ()


async def test_links_left_for_the_resume(place: Place, model: OfflineModel) -> None:
    """An agent cannot have larkline's files copied for it by the resume of its session."""
    secret = place.base / "larkline.toml"
    secret.write_text(SECRET)
    store = InMemorySessionStore()
    first = await cli_launch(place, "full", model.url)
    agent = client(first, store)
    await agent.connect()
    names = ".claude.json .credentials.json settings.json"
    made = f"for f in {names}; do ln -sf {secret} $CLAUDE_CONFIG_DIR/$f; done"
    result = await turn(agent, bash(made))
    await agent.disconnect()
    await end_tree(first)
    assert (first.config_dir / "settings.json").is_symlink()
    second = await cli_launch(place, "full", model.url)
    agent = client(second, store, result.session_id)
    await agent.connect()
    said = str((await turn(agent, bash("grep -rs secret-of $CLAUDE_CONFIG_DIR; echo over"))).result)
    assert said.strip().splitlines()[-1] == "over"
    assert SECRET not in said
    await agent.disconnect()
    await end_tree(second)


@pytest.mark.parametrize("wanted", ["full", "none"])
async def test_gateway_killed_in_mid_tool(place: Place, model: OfflineModel, wanted: Level) -> None:
    """With the gateway killed while a tool runs beside a daemon, all are gone in two seconds."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAM, str(place.base), wanted, model.url, bash(LEAVE + STAY),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert program.stdout is not None
    async with asyncio.timeout(60):
        marker, folder = (await program.stdout.readline()).decode().split()
    record = read_record(Path(folder))
    assert len(survivors(marker, record)) >= 4
    program.kill()
    await until(lambda: not survivors(marker, record), 2.0)
    await program.wait()


@pytest.mark.parametrize("victim", ["cli", "guard"])
async def test_killed_in_mid_tool(place: Place, model: OfflineModel, victim: str) -> None:
    """CLI or guard killed while a tool runs: nothing is left even before larkline acts."""
    launch = await cli_launch(place, "full", model.url)
    agent = client(launch)
    await agent.connect()
    await agent.query(bash(LEAVE + STAY))
    await tool_runs(launch.marker)
    record = read_record(launch.agent_dir)
    assert record is not None
    os.kill(record.pid if victim == "guard" else descendants(record.pid)[2], signal.SIGKILL)
    await until(lambda: not survivors(launch.marker, record), 2.0)
    async with asyncio.timeout(2):
        await guard_ended(launch)
    await end_tree(launch)
    await agent.disconnect()


@pytest.mark.parametrize("wanted", ["full", "none"])
async def test_cancelled_disconnect(place: Place, model: OfflineModel, wanted: Level) -> None:
    """A disconnect that was cut short leaves everything running; `end_tree` ends it."""
    launch = await cli_launch(place, wanted, model.url)
    agent = client(launch)
    await agent.connect()
    await agent.query(bash(LEAVE + STAY))
    await tool_runs(launch.marker)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(agent.disconnect(), 0.3)
    assert survivors(launch.marker, read_record(launch.agent_dir))
    await end_tree(launch)
    assert survivors(launch.marker, read_record(launch.agent_dir)) == ()
