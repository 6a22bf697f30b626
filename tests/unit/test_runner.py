"""One turn, through its watchdogs, with scripted agents."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from stage_kit import message, pool, runner

from larkline.agents.scripted import (
    Crashing,
    Deaf,
    ScriptedAgent,
    ScriptedMaker,
    Silent,
    Slow,
    unstartable,
)
from larkline.domain.errors import StartFault
from larkline.domain.model import (
    Claim,
    Ending,
    NewTurn,
    SessionId,
    Standing,
    TurnKind,
    Verdict,
)
from larkline.ports import AgentSpec
from larkline.stores.memory import MemoryStore


async def claim(text: str = "hello", kind: TurnKind = TurnKind.PROMPT) -> Claim:
    store = MemoryStore()
    await store.accept(message(text), Verdict(Standing.TURN, turn=NewTurn(kind, text)))
    taken = await store.take()
    assert taken is not None
    return taken


def nobody_stops() -> asyncio.Future[Ending]:
    return asyncio.get_running_loop().create_future()


async def test_an_answer_is_exact_and_keeps_its_session() -> None:
    """The final text is the agent's, and the agent stays warm for the next turn."""
    agents = pool()
    outcome = await runner(agents).run(await claim("one  two\nthree"), nobody_stops())
    assert outcome.ending is Ending.ANSWERED
    assert outcome.final.text == "one  two\nthree"
    assert outcome.keep_session
    assert agents.counts().idle == 1
    await agents.close()


async def test_stop_ends_it_soon_and_keeps_what_was_said() -> None:
    """The partial text stays in the answer."""
    agents = pool(ScriptedMaker(Slow(words=1000, pause=0.01)))
    stop = nobody_stops()
    turn = asyncio.create_task(runner(agents).run(await claim(), stop))
    await asyncio.sleep(0.1)
    stop.set_result(Ending.STOPPED)
    outcome = await asyncio.wait_for(turn, 1)
    assert outcome.ending is Ending.STOPPED
    assert outcome.final.text.startswith("w0 w1")
    assert "Stopped as you asked" in outcome.final.text
    await agents.close()


async def test_a_deaf_agent_is_ended() -> None:
    """No end within the bound: the lease closes the process; nothing is left."""
    maker = ScriptedMaker(Deaf())
    agents = pool(maker)
    stop = nobody_stops()
    turn = asyncio.create_task(runner(agents, stop_seconds=0.05).run(await claim(), stop))
    await asyncio.sleep(0.02)
    stop.set_result(Ending.STOPPED)
    assert (await asyncio.wait_for(turn, 2)).ending is Ending.STOPPED
    assert maker.live == 0


@pytest.mark.parametrize(
    ("maker", "bounds", "ending"),
    [
        (ScriptedMaker(Silent()), {"silence_seconds": 0.05}, Ending.SILENT),
        (ScriptedMaker(Slow(1000, 0.01)), {"turn_seconds": 0.05}, Ending.TIMED_OUT),
        (ScriptedMaker(Crashing()), {}, Ending.AGENT_DIED),
        (unstartable(StartFault.NO_CLI), {}, Ending.AGENT_UNSTARTABLE),
        (unstartable(StartFault.NO_WORKSPACE), {}, Ending.AGENT_UNSTARTABLE),
        (unstartable(StartFault.RESUME_FAILED), {}, Ending.RESUME_FAILED),
    ],
)
async def test_every_failure_is_explained_and_leaves_nothing(
    maker: ScriptedMaker, bounds: dict[str, float], ending: Ending
) -> None:
    """A bounded end, a text that says what to do, no process left."""
    agents = pool(maker)
    outcome = await asyncio.wait_for(runner(agents, **bounds).run(await claim(), nobody_stops()), 5)
    assert outcome.ending is ending
    assert "❌ Failed: " in outcome.final.text
    # Only an agent that ended its turn when asked may stay warm.
    assert maker.live == (1 if ending is Ending.TIMED_OUT else 0)
    await agents.close()
    assert maker.live == 0


@pytest.mark.parametrize(
    ("status", "ending", "button"),
    [(401, Ending.AUTHENTICATION, False), (529, Ending.OVERLOADED, True)],
)
async def test_model_failures_are_told_apart(status: int, ending: Ending, button: bool) -> None:
    """What may pass offers a button; what will not doesn't. The agent stays usable."""
    agents = pool()
    outcome = await runner(agents).run(await claim(f"[[status:{status}]]"), nobody_stops())
    assert outcome.ending is ending
    assert bool(outcome.final.buttons) is button
    await agents.close()


async def test_a_session_that_can_not_be_resumed_gives_way_to_a_new_one() -> None:
    """The answer comes, and says that the context is lost."""

    class Forgetful(ScriptedMaker):
        async def start(self, spec):  # type: ignore[no-untyped-def]
            self.fault = StartFault.RESUME_FAILED if spec.resume else None
            return await super().start(spec)

    agents = pool(Forgetful())
    old = replace(await claim("hello"), session=SessionId("gone"))
    outcome = await runner(agents).run(old, nobody_stops())
    assert outcome.ending is Ending.ANSWERED
    assert outcome.final.text.endswith("hello")
    assert "could not be restored" in outcome.final.text
    assert outcome.keep_session not in ("gone", None, "")
    await agents.close()


async def test_new_forgets_the_session_and_the_warm_agent() -> None:
    """/new is answered as text; with words behind it they are the new session's first prompt."""
    maker = ScriptedMaker()
    agents = pool(maker)
    run = runner(agents).run
    bare = await run(await claim("", TurnKind.NEW), nobody_stops())
    assert (bare.keep_session, bare.final.as_card) == ("", False)
    told = await run(await claim("start over", TurnKind.NEW), nobody_stops())
    assert told.final.text == "start over"
    assert told.keep_session
    await agents.close()


async def test_cancellation_escapes_and_leaves_nothing() -> None:
    """Only cancellation gets out of the runner, and the agent is gone by then."""
    maker = ScriptedMaker(Slow(1000, 0.01))
    agents = pool(maker)
    turn = asyncio.create_task(runner(agents).run(await claim(), nobody_stops()))
    await asyncio.sleep(0.05)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert maker.live == 0


async def test_a_cancellation_from_inside_is_an_ending() -> None:
    """The turn is settled with an explanation; it does not hold its conversation for ever."""

    class Cancelling(ScriptedMaker):
        async def start(self, spec: AgentSpec) -> ScriptedAgent:
            raise asyncio.CancelledError

    outcome = await runner(pool(Cancelling())).run(await claim(), nobody_stops())
    assert outcome.ending is Ending.INTERNAL
    assert "❌ Failed" in outcome.final.text


async def test_an_answer_that_comes_while_stopping_is_an_answer() -> None:
    """Asked to end at a shutdown, the agent ends by itself: nothing was broken off."""

    class Finishing(ScriptedAgent):
        async def interrupt(self) -> None:
            await asyncio.sleep(0.3)

    class Maker(ScriptedMaker):
        async def start(self, spec: AgentSpec) -> ScriptedAgent:
            return Finishing(SessionId("s"), Slow(words=10, pause=0.02), lambda: None)

    agents = pool(Maker())
    stop = nobody_stops()
    turn = asyncio.create_task(runner(agents).run(await claim(), stop))
    await asyncio.sleep(0.05)
    stop.set_result(Ending.INTERRUPTED)
    outcome = await turn
    assert outcome.ending is Ending.ANSWERED
    assert outcome.final.text.endswith("w9 ")
    assert outcome.final.buttons == ()
    await agents.close()
