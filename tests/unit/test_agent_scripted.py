"""Scripted agents fail in the ways their names say, and the buffer before readers holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from larkline.agents.buffer import LONGEST_EVENTS, EventBuffer
from larkline.agents.scripted import (
    Crashing,
    Deaf,
    Flooding,
    Script,
    ScriptedAgent,
    ScriptedMaker,
    Silent,
    Slow,
    unstartable,
)
from larkline.domain.errors import AgentDiedError, AgentStartError, StartFault
from larkline.domain.events import (
    AgentEvent,
    Alive,
    Ended,
    MessageStart,
    TextDelta,
    TextDone,
    Thinking,
)
from larkline.domain.model import ConversationId
from larkline.ports import AgentSpec, ModelFailure

SPEC = AgentSpec(ConversationId("0123456789abcdef"), None)


async def agent(script: Script) -> ScriptedAgent:
    return await ScriptedMaker(script).start(SPEC)


async def turn(one: ScriptedAgent, prompt: str = "hi") -> list[AgentEvent]:
    async with asyncio.timeout(5):
        return [event async for event in one.turn(prompt, "u")]


async def test_slow_and_flooding_say_all_their_words() -> None:
    """One with pauses, one without; every word arrives."""
    for script, words in ((Slow(3, 0.001), 3), (Flooding(20_000), 20_000)):
        events = await turn(await agent(script))
        drafted = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert len(drafted.split()) == words
        assert events[-2] == TextDone(drafted)


async def test_silent_waits_for_an_interrupt() -> None:
    """Then the turn ends as the CLI's does, and the agent lives on."""
    one = await agent(Silent(2))
    reading = asyncio.ensure_future(turn(one))
    await asyncio.wait({reading}, timeout=0.02)
    assert not reading.done()
    await one.interrupt()
    last = (await reading)[-1]
    assert isinstance(last, Ended)
    assert (last.is_error, last.terminal_reason) == (True, "aborted_streaming")
    assert one.alive


async def test_deaf_ends_only_by_closing() -> None:
    """An interrupt does nothing to it."""
    one = await agent(Deaf())
    reading = asyncio.ensure_future(turn(one))
    await asyncio.sleep(0)
    await one.interrupt()
    await asyncio.wait({reading}, timeout=0.02)
    assert not reading.done()
    await one.close()
    with pytest.raises(AgentDiedError):
        await reading


async def test_crashing_dies_in_mid_turn() -> None:
    """With its exit code, and it is not alive afterwards."""
    one = await agent(Crashing(exit_code=-9))
    with pytest.raises(AgentDiedError) as caught:
        await turn(one)
    assert caught.value.exit_code == -9
    assert not one.alive


async def test_a_prompt_can_order_failures() -> None:
    """`[[status:n]]` and `[[die]]`, as with the offline model."""
    maker = ScriptedMaker()
    one = await maker.start(SPEC)
    last = (await turn(one, "[[status:529]]"))[-1]
    assert isinstance(last, Ended)
    assert (last.is_error, last.api_error_status, last.session) == (True, 529, one.session)
    assert one.last_failure() == ModelFailure(529, None)
    with pytest.raises(AgentDiedError):
        await turn(one, "[[die]]")
    assert maker.live == 0


async def test_unstartable_says_why() -> None:
    """Every start fails with the fault asked for."""
    with pytest.raises(AgentStartError) as caught:
        await unstartable(StartFault.RESUME_FAILED).start(SPEC)
    assert caught.value.fault is StartFault.RESUME_FAILED


async def test_the_buffer_joins_drafts_and_forgets_repeated_signs() -> None:
    """A slow reader gets the same text in fewer pieces."""
    buffer = EventBuffer()
    told: list[AgentEvent] = [
        Alive(), Alive(), TextDelta("a"), TextDelta("b"), Alive(), TextDelta("c"), Thinking(),
    ]  # fmt: skip
    for event in (*told, Thinking()):
        await buffer.put(event)
    buffer.end()
    await buffer.put(TextDelta("late"))
    assert [event async for event in taken(buffer)] == [
        Alive(), TextDelta("ab"), Alive(), TextDelta("c"), Thinking(),
    ]  # fmt: skip


async def taken(buffer: EventBuffer) -> AsyncIterator[AgentEvent]:
    while (event := await buffer.get()) is not None:
        yield event


async def test_a_full_buffer_holds_the_writer_until_there_is_room_or_an_end() -> None:
    """And an error reaches the reader after what came before it."""
    buffer = EventBuffer()
    for _ in range(LONGEST_EVENTS):
        await buffer.put(MessageStart())
    held = asyncio.ensure_future(buffer.put(TextDelta("x")))
    await asyncio.sleep(0)
    assert not held.done()
    assert await buffer.get() == MessageStart()
    async with asyncio.timeout(1):
        await held
        held = asyncio.ensure_future(buffer.put(MessageStart()))
        await asyncio.sleep(0)
        buffer.end(AgentDiedError("gone"))
        await held
    with pytest.raises(AgentDiedError):
        assert [event async for event in taken(buffer)]
