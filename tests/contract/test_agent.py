"""What `larkline.ports.Agent` and `AgentMaker` promise, over real and scripted agents."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.append(str(Path(__file__).parent.parent / "integration"))

import claude_kit
from claude_kit import drafted, ended, said, spec, turn

from larkline.agents.scripted import ScriptedMaker, unstartable
from larkline.domain.errors import AgentDiedError, AgentStartError
from larkline.domain.events import (
    AgentEvent,
    Ended,
    Started,
    TextDelta,
    ToolEnded,
    ToolStarted,
)
from larkline.ports import Agent, AgentMaker


class Bench:
    """One kind of agent: how it is made, and what makes a start of it fail or hang."""

    def __init__(self, kind: str, maker: AgentMaker, failing: AgentMaker, slow: AgentMaker) -> None:
        self.kind = kind
        self.maker = maker
        self.failing = failing
        self.slow = slow
        self._agent: Agent | None = None

    async def agent(self) -> Agent:
        """A living agent; the same one while it lives, for a process costs a second."""
        if self._agent is None or not self._agent.alive:
            self._agent = await self.maker.start(spec())
        return self._agent

    async def close(self) -> None:
        if self._agent is not None:
            await self._agent.close()


@pytest_asyncio.fixture(
    loop_scope="module",
    scope="module",
    params=["scripted", pytest.param("claude", marks=[pytest.mark.cli, pytest.mark.slow])],
)
async def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    if request.param == "scripted":
        yield Bench("scripted", ScriptedMaker(), unstartable(), ScriptedMaker(start_seconds=60))
        return
    base = tmp_path_factory.mktemp("agents")
    mute = base / "mute"
    mute.write_text("#!/bin/sh\nwhile :; do sleep 1; done\n")
    mute.chmod(0o755)
    async with claude_kit.world(base) as world:
        made = Bench(
            "claude",
            world.maker(allow=("Bash(echo:*)",)),
            world.maker(cli_path=base / "none"),
            world.maker(cli_path=mute),
        )
        yield made
        await made.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_turn_begins_and_ends(bench: Bench) -> None:
    """`Started` with the agent's session, the text, `Ended` with the same; `Ended` is last."""
    agent = await bench.agent()
    events = await turn(agent, "[[text:hello to you]]")
    began = [event for event in events if isinstance(event, Started)]
    assert [event.session for event in began] == [agent.session]
    assert drafted(events) == said(events) == ended(events).text == "hello to you"
    assert ended(events).session == agent.session
    assert not ended(events).is_error
    assert sum(isinstance(event, Ended) for event in events) == 1
    assert agent.alive
    assert agent.usage().output_tokens > 0
    assert agent.last_failure() is None


async def test_turns_follow_each_other(bench: Bench) -> None:
    """The same agent takes turn after turn, each with its own answer."""
    agent = await bench.agent()
    for word in ("one", "two", "three"):
        assert said(await turn(agent, f"[[text:{word}]]")) == word


async def test_one_turn_at_a_time(bench: Bench) -> None:
    """A second turn during the first is refused and does not disturb it."""
    agent = await bench.agent()
    events: list[AgentEvent] = []
    async for event in agent.turn("[[text:a b c]]", str(uuid.uuid4())):
        if not events:
            with pytest.raises(RuntimeError):
                await turn(agent, "[[text:no]]")
        events.append(event)
    assert said(events) == "a b c"


async def test_tools_are_told(bench: Bench) -> None:
    """A tool call begins, with one line about it, and ends."""
    agent = await bench.agent()
    order = "Bash echo hi" if bench.kind == "scripted" else 'Bash {"command":"echo hi"}'
    events = await turn(agent, f"[[tool:{order}]][[then]][[text:done]]")
    (began,) = [event for event in events if isinstance(event, ToolStarted)]
    assert (began.name, began.about) == ("Bash", "echo hi")
    assert ToolEnded(began.id, failed=False) in events
    assert said(events) == "done"


async def test_an_interrupt_ends_the_turn(bench: Bench) -> None:
    """Its `Ended` follows; idle it does nothing; the agent lives on."""
    agent = await bench.agent()
    events: list[AgentEvent] = []
    async with asyncio.timeout(20):
        async for event in agent.turn("[[tokens:5000]][[delay:0.02]]", str(uuid.uuid4())):
            events.append(event)
            if isinstance(event, TextDelta):
                await agent.interrupt()
        assert ended(events).is_error
        assert ended(events).terminal_reason == "aborted_streaming"
        await agent.interrupt()
    assert agent.alive
    assert said(await turn(agent, "[[text:on]]")) == "on"


async def test_closing_ends_it(bench: Bench) -> None:
    """A turn under way ends with an error; closing again is fine; nothing runs after it."""
    agent = await bench.maker.start(spec("0123456789abcdef"))
    events = agent.turn("[[tokens:5000]][[delay:0.02]]", str(uuid.uuid4()))
    async for event in events:
        if isinstance(event, TextDelta):
            break
    reading = asyncio.ensure_future(rest(events))
    async with asyncio.timeout(10):
        await asyncio.gather(agent.close(), agent.close())
        await agent.close()
        try:
            last = (await reading)[-1]
            assert isinstance(last, Ended)
            assert last.is_error
        except AgentDiedError:
            pass
    assert not agent.alive
    with pytest.raises(AgentDiedError):
        await turn(agent, "[[text:no]]")


async def rest(events: AsyncIterator[AgentEvent]) -> list[AgentEvent]:
    return [event async for event in events]


async def test_closing_finishes_when_cancelled(bench: Bench) -> None:
    """The caller is cancelled, the agent is gone all the same when the cancellation arrives."""
    agent = await bench.maker.start(spec("0123456789abcdef"))
    closing = asyncio.ensure_future(agent.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing}, timeout=10)
    assert closing.done()
    assert not agent.alive


async def test_a_half_read_turn_spoils_the_agent(bench: Bench) -> None:
    """Who stops reading cannot go on with it."""
    agent = await bench.maker.start(spec("0123456789abcdef"))
    events = agent.turn("[[tokens:5000]][[delay:0.02]]", str(uuid.uuid4()))
    async for _ in events:
        break
    await events.aclose()
    assert not agent.alive
    with pytest.raises(AgentDiedError):
        await turn(agent, "[[text:no]]")
    await agent.close()


async def test_a_failed_start_is_typed(bench: Bench) -> None:
    """It raises `AgentStartError`."""
    with pytest.raises(AgentStartError):
        await bench.failing.start(spec())


async def test_a_cancelled_start_ends_soon(bench: Bench) -> None:
    """Within seconds, and as a cancellation."""
    starting = asyncio.ensure_future(bench.slow.start(spec("0123456789abcdef")))
    await asyncio.wait({starting}, timeout=0.5)
    assert not starting.done()
    starting.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await starting


async def test_a_resumed_session_keeps_its_id(bench: Bench) -> None:
    """`resume` names the session that the next agent writes to."""
    first = await bench.maker.start(spec("0123456789abcdef"))
    await turn(first, "[[text:remember]]")
    await first.close()
    second = await bench.maker.start(spec("0123456789abcdef", first.session))
    try:
        assert second.session == first.session
        assert said(await turn(second, "[[text:yes]]")) == "yes"
    finally:
        await second.close()
