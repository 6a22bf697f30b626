"""Real Claude Code processes behind guard and broker, with the offline model."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import claude_kit
import pytest
from claude_kit import SECRET, World, drafted, ended, said, spec, turn

from larkline.agents import claude_session
from larkline.agents.ending import TreeSurvivesError, survivors
from larkline.agents.processes import descendants
from larkline.agents.removal import remove_folder
from larkline.domain.errors import AgentDiedError, AgentStartError, StartFault
from larkline.domain.events import (
    AgentEvent,
    Denied,
    MessageStart,
    Started,
    TextDelta,
    ToolEnded,
    ToolStarted,
)
from larkline.domain.model import SessionId
from larkline.ports import Agent, ModelFailure, TranscriptKey
from larkline.stores.memory import MemoryStore

pytestmark = [
    pytest.mark.cli,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:can_use_tool will not be invoked"),
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with claude_kit.world(tmp_path) as made:
        yield made
    assert not list(made.agents_root.glob(f"{spec().conversation}-*"))


async def first_text(agent: Agent, prompt: str) -> AsyncGenerator[AgentEvent, None]:
    """The turn, from its first text on."""
    begun = False
    async for event in agent.turn(prompt, str(uuid.uuid4())):
        begun = begun or isinstance(event, TextDelta)
        if begun:
            yield event


async def test_a_day_of_one_agent(world: World) -> None:
    """Text, tools, refusals, failures and long answers, turn after turn in one process."""
    nowhere = "http://127.0.0.1:1"
    proxies = {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "NO_PROXY": "example.org"}
    maker = world.maker(allow=("Bash(env)", "Bash(echo:*)"), env=proxies)
    agent = await maker.start(spec())
    try:
        assert agent.alive
        assert agent.pid is not None
        assert len(descendants(agent.pid)) >= 1
        workspace = world.home(spec().conversation).workspace
        elsewhere = world.base / "elsewhere"
        elsewhere.mkdir()
        (workspace / "link").symlink_to(elsewhere)

        events = await turn(agent, "Say so [[text:hello there]]")
        assert isinstance(events[1], Started)
        assert events[1].session == agent.session
        assert drafted(events) == said(events) == ended(events).text == "hello there"
        assert ended(events).terminal_reason == "completed"
        assert agent.usage().input_tokens > 0
        assert agent.usage().cost_usd == pytest.approx(0.065, abs=0.06)
        assert agent.last_failure() is None

        events = await turn(agent, '[[tool:Bash {"command":"env"}]][[then]][[result]]')
        environment = said(events)
        assert SECRET not in environment
        assert f"HOME={world.home(spec().conversation).config}" in environment
        names = {line.partition("=")[0] for line in environment.splitlines()}
        assert "PYTEST_CURRENT_TEST" not in names
        assert "VIRTUAL_ENV" not in names
        assert "NO_PROXY=example.org,127.0.0.1" in environment  # else the broker is not reached
        started = next(event for event in events if isinstance(event, ToolStarted))
        assert (started.name, started.about) == ("Bash", "env")
        assert ToolEnded(started.id, failed=False) in events

        events = await turn(
            agent,
            f'[[tool:Write {{"file_path":"{workspace}/sub/a.txt","content":"written"}}]]'
            "[[then]][[text:done]]",
        )
        assert (workspace / "sub/a.txt").read_text() == "written"
        assert [e.about for e in events if isinstance(e, ToolStarted)] == ["sub/a.txt"]

        events = await turn(
            agent,
            f'[[tool:Write {{"file_path":"{world.base}/outside.txt","content":"x"}}]]'
            f'[[tool:Write {{"file_path":"{workspace}/link/b.txt","content":"x"}}]]'
            f'[[tool:Write {{"file_path":"{workspace}/.git/hooks/pre-commit","content":"x"}}]]'
            '[[tool:Bash {"command":"curl http://127.0.0.1:1/"}]][[then]][[result]]',
        )
        denied = [event for event in events if isinstance(event, Denied)]
        assert {(event.name, event.about) for event in denied} == {
            ("Write", f"{world.base}/outside.txt"),
            ("Write", "link/b.txt"),
            ("Write", ".git/hooks/pre-commit"),
            ("Bash", "curl http://127.0.0.1:1/"),
        }
        assert not (world.base / "outside.txt").exists()
        assert not list(elsewhere.iterdir())
        told = " ".join(str(each) for each in world.model.requests[-1].asked.results)
        assert "outside" in told
        assert "agent.allow" in told

        events = await turn(agent, "[[size:2000000]]")
        assert len(said(events)) == len(ended(events).text) == 2_000_000
        assert drafted(events) == said(events)
        assert agent.last_failure() is None

        prompt = "/compact @/etc/hostname - $(id) [[text:verbatim]]"
        assert said(await turn(agent, prompt)) == "verbatim"
        assert world.model.requests[-1].prompts[-1] == prompt

        events = await turn(agent, "[[status:529]][[retry-after:7]]")
        assert ended(events).is_error
        assert ended(events).api_error_status == 529
        assert ended(events).error == "server_error"
        assert said(events) == ""
        assert agent.last_failure() == ModelFailure(529, 7.0)
    finally:
        await agent.close()
    assert not survivors(agent._launch.marker, None)
    assert maker.live() == frozenset()


async def test_interrupts_in_text_in_a_tool_and_at_once(world: World) -> None:
    """An interrupted turn ends with its own result, and the next one is whole."""
    agent = await world.maker(allow=("Bash(timeout:*)",)).start(spec())
    try:
        text = first_text(agent, "[[tokens:5000]][[delay:0.02]]")
        assert isinstance(await anext(text), TextDelta)
        await agent.interrupt()
        rest = [event async for event in text]
        assert ended(rest).terminal_reason == "aborted_streaming"

        events = []
        command = "timeout 60 tail -f /dev/null"
        prompt = f'[[tool:Bash {{"command":"{command}"}}]][[then]][[text:never]]'
        async for event in agent.turn(prompt, str(uuid.uuid4())):
            events.append(event)
            if isinstance(event, ToolStarted):
                await until_runs(agent, "tail")
                await agent.interrupt()
        assert ended(events).terminal_reason == "aborted_tools"
        assert not runs(agent, "tail")

        events = []
        for_ever = agent.turn("[[tokens:50]][[delay:0.02]]", str(uuid.uuid4()))
        reading = asyncio.ensure_future(collect(for_ever))
        await asyncio.sleep(0)
        await agent.interrupt()  # before the process has seen the prompt
        async with asyncio.timeout(10):
            assert ended(await reading).is_error

        await agent.interrupt()  # idle: nothing
        # Both prompts now, as the first got no answer.
        assert said(await turn(agent, "[[text:whole again]]")).endswith("whole again")
    finally:
        await agent.close()


async def collect(events: AsyncGenerator[AgentEvent, None]) -> list[AgentEvent]:
    return [event async for event in events]


def runs(agent: Agent, name: str) -> list[int]:
    assert agent.pid is not None
    found = []
    for pid in descendants(agent.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(name.encode()):
            found.append(pid)
    return found


async def until_runs(agent: Agent, name: str) -> list[int]:
    async with asyncio.timeout(10):
        while not (found := runs(agent, name)):
            await asyncio.sleep(0.01)
    return found


async def test_a_killed_cli_is_told_and_the_session_goes_on(world: World) -> None:
    """SIGKILL of the CLI in mid-turn raises; the next start has the history, from our store."""
    maker = world.maker()
    agent = await maker.start(spec())
    session = agent.session
    try:
        assert said(await turn(agent, "My dog is called Otto [[text:noted]]")) == "noted"
        text = first_text(agent, "and now [[tokens:5000]][[delay:0.02]]")
        await anext(text)
        (cli,) = runs(agent, "claude")
        os.kill(cli, signal.SIGKILL)
        with pytest.raises(AgentDiedError) as caught:
            await collect(text)
        assert caught.value.exit_code in (-9, 137)
        assert not agent.alive
        with pytest.raises(AgentDiedError):
            await turn(agent, "[[text:no]]")
    finally:
        await agent.close()
    shutil.rmtree(world.home(spec().conversation).config)
    again = await maker.start(spec(resume=session))
    try:
        assert again.session == session
        assert said(await turn(again, "What did I say? [[text:Otto]]")) == "Otto"
        prompts = "\n".join(world.model.requests[-1].prompts)
        assert "My dog is called Otto" in prompts
        assert prompts.count("My dog") == 1
    finally:
        await again.close()
    (world.home(spec().conversation).config / ".claude.json").write_text('{"broken')
    assert said(await once(world, session, "still [[text:there]]")) == "there"
    kept = await world.transcripts.load((spec().conversation, session, ""))
    assert kept is not None
    uuids = [entry["uuid"] for entry in kept if "uuid" in entry]
    assert len(uuids) == len(set(uuids))


async def once(world: World, session: SessionId, prompt: str) -> list[AgentEvent]:
    agent = await world.maker().start(spec(resume=session))
    try:
        return await turn(agent, prompt)
    finally:
        await agent.close()


async def test_starts_that_fail_say_why_and_leave_nothing(world: World, tmp_path: Path) -> None:
    """Unknown session, no CLI, a CLI that ends or never answers: typed, and nothing runs on."""
    maker = world.maker()
    with pytest.raises(AgentStartError) as caught:
        await maker.start(spec(resume=SessionId(str(uuid.uuid4()))))
    assert caught.value.fault is StartFault.RESUME_FAILED
    with pytest.raises(AgentStartError) as caught:
        await world.maker(cli_path=tmp_path / "none").start(spec())
    assert caught.value.fault is StartFault.NO_CLI
    plain = tmp_path / "plain"
    plain.write_text("")
    for path in (tmp_path / "none", tmp_path, plain):  # none, a folder, not executable
        with pytest.raises(AgentStartError, match=r"agent\.cli_path") as caught:
            world.maker(cli_path=path).cli()
        assert caught.value.fault is StartFault.NO_CLI
    with pytest.raises(AgentStartError) as caught:
        await world.maker(cli_path=script(tmp_path, "echo it is sk-secret >&2; exit 7")).start(
            spec()
        )
    assert caught.value.fault is StartFault.EXITED
    assert "7" in str(caught.value)
    assert "sk-secret" not in str(caught.value)
    mute = script(tmp_path, 'trap "" TERM; sleep 300 & while :; do sleep 1; done')
    slow = world.maker(cli_path=mute, start_seconds=1.0)
    async with asyncio.timeout(10):
        with pytest.raises(AgentStartError) as caught:
            await slow.start(spec())
    assert caught.value.fault is StartFault.TIMED_OUT
    starting = asyncio.ensure_future(world.maker(cli_path=mute).start(spec()))
    async with asyncio.timeout(10):
        while not list(world.agents_root.glob(f"{spec().conversation}-*")):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    for one in (maker, slow):
        assert one.live() == frozenset()
    assert not [pid for pid in descendants(os.getpid()) if b"sleep" in cmdline(pid)]


def script(folder: Path, text: str) -> Path:
    path = folder / f"cli-{uuid.uuid4().hex[:6]}"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def test_a_turn_that_nobody_reads_ends_with_the_agent(world: World) -> None:
    """Leaving a turn half read spoils the agent; closing it in mid-tool ends tool and daemon."""
    agent = await world.maker(allow=("Bash",)).start(spec())
    marker = agent._launch.marker
    daemon = "setsid nohup tail -f /dev/null >/dev/null 2>&1 & echo on"
    try:
        await turn(agent, f'[[tool:Bash {{"command":"{daemon}"}}]][[then]][[text:left]]')
        await until_runs(agent, "tail")
        events = agent.turn("[[tokens:5000]][[delay:0.02]]", str(uuid.uuid4()))
        async for event in events:
            if isinstance(event, MessageStart):
                break
        await events.aclose()
        assert not agent.alive
        with pytest.raises(AgentDiedError):
            await turn(agent, "[[text:no]]")
    finally:
        async with asyncio.timeout(10):
            await asyncio.gather(agent.close(), agent.close())
    await agent.close()
    assert not survivors(marker, None)


async def test_work_of_its_own_between_turns_is_not_the_answer(world: World) -> None:
    """A background task that ends wakes the CLI; our next turn still gets its own answer."""
    beside = {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"}
    agent = await world.maker(allow=("Bash",), env=beside).start(spec())
    try:
        command = '{"command":"timeout 0.5 tail -f /dev/null; echo x","run_in_background":true}'
        events = await turn(agent, f"[[tool:Bash {command}]][[then]][[text:started]]")
        assert said(events) == "started"
        await world.model.until(lambda: len(world.model.requests) == 3)  # it asks by itself
        assert said(await turn(agent, "mine [[text:for me]]")) == "for me"
    finally:
        await agent.close()


@pytest.mark.parametrize("asked", [True, False])
async def test_a_frozen_cli_holds_nobody_up(world: World, *, asked: bool) -> None:
    """Interrupt and close are bounded, a question is not asked twice, and nothing is left."""
    agent = await world.maker().start(spec())
    events = first_text(agent, "[[tokens:5000]][[delay:0.02]]")
    await anext(events)
    reading = asyncio.ensure_future(collect(events))
    (cli,) = runs(agent, "claude")
    os.kill(cli, signal.SIGSTOP)
    if asked:
        with suppress(TimeoutError):
            async with asyncio.timeout(2.5):
                await agent.interrupt()
    async with asyncio.timeout(1.0 if asked else 2.9):
        await agent.close()
        with pytest.raises(AgentDiedError):
            await reading
    assert not survivors(agent._launch.marker, None)


async def test_closing_goes_on_whatever_the_sdk_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disconnect that fails in a new way is told, and nothing is left behind for it."""
    maker = world.maker()
    agent = await maker.start(spec())
    assert agent._client is not None
    disconnect = agent._client.disconnect

    async def fail() -> None:
        await disconnect()
        raise OSError("new")

    monkeypatch.setattr(agent._client, "disconnect", fail)
    with pytest.raises(OSError, match="new"):
        await agent.close()
    assert maker.live() == frozenset()
    assert not agent._launch.agent_dir.exists()
    assert agent._order.token is not None
    with pytest.raises(KeyError):
        world.broker.turn_report(agent._order.token)


async def test_a_tree_that_survives_is_ended_by_the_next_close(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the agent counts as live, and its folder stays."""
    maker = world.maker()
    agent = await maker.start(spec())
    with monkeypatch.context() as broken:

        async def survives(launch: object) -> None:
            raise TreeSurvivesError("it", (7,))

        broken.setattr(claude_session, "end_tree", survives)
        with pytest.raises(TreeSurvivesError):
            await agent.close()
        with pytest.raises(TreeSurvivesError):
            await agent.close()
    assert maker.live()
    await agent.close()
    await agent.close()
    assert maker.live() == frozenset()
    assert not survivors(agent._launch.marker, None)


async def test_a_folder_that_takes_long_holds_nobody_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent counts as gone when its processes are."""
    go = threading.Event()

    def slowly(path: Path) -> bool:
        go.wait(10)
        return remove_folder(path)

    monkeypatch.setattr(claude_session, "remove_folder", slowly)
    maker = world.maker()
    agent = await maker.start(spec())
    try:
        async with asyncio.timeout(3):
            await agent.close()
        assert maker.live() == frozenset()
    finally:
        go.set()
    async with asyncio.timeout(5):
        while agent._launch.agent_dir.exists():
            await asyncio.sleep(0.01)


async def test_a_cli_that_dies_idle_is_noticed_at_once(world: World) -> None:
    """Not only when the next turn finds nobody."""
    agent = await world.maker().start(spec())
    (cli,) = runs(agent, "claude")
    os.kill(cli, signal.SIGKILL)
    async with asyncio.timeout(5):
        while agent.alive:
            await asyncio.sleep(0.01)
    await agent.close()


class Stuck(MemoryStore):
    """Takes no transcript until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def append(self, key: TranscriptKey, entries: Sequence[Mapping[str, object]]) -> None:
        await self.go.wait()
        await super().append(key, entries)


async def test_a_stuck_store_delays_an_answer_by_its_patience_only(tmp_path: Path) -> None:
    """Not by the SDK's minute a batch; when the store works again nothing is missing."""
    store = Stuck()
    async with claude_kit.world(tmp_path, store) as world:
        agent = await world.maker(allow=("Bash(echo:*)",)).start(spec())
        try:
            async with asyncio.timeout(15):
                prompt = '[[tool:Bash {"command":"echo a"}]][[then]][[text:slow store]]'
                assert said(await turn(agent, prompt)) == "slow store"
                assert said(await turn(agent, "[[text:at once]]")) == "at once"
            store.go.set()
            assert said(await turn(agent, "[[text:third]]")) == "third"
        finally:
            await agent.close()
        kept = await store.load((spec().conversation, agent.session, ""))
        assert kept is not None
        told = [entry["type"] for entry in kept if entry["type"] in ("user", "assistant")]
        assert told == ["user", "assistant", "user", "assistant"] + ["user", "assistant"] * 2
        assert said(await once(world, agent.session, "[[text:resumed]]")) == "resumed"
