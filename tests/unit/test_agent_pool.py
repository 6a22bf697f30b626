"""The pool: never above its capacity, in order, warm where it can be, and it always ends."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larkline.agents.ending import TreeSurvivesError
from larkline.agents.pool import AgentPool, PoolCounts
from larkline.agents.scripted import ScriptedAgent, ScriptedMaker, unstartable
from larkline.domain.errors import AgentStartError, StartFault
from larkline.domain.model import ConversationId, SessionId
from larkline.ports import Agent, AgentSpec


def spec(name: str, resume: SessionId | None = None) -> AgentSpec:
    return AgentSpec(ConversationId(name), resume)


class SlowToClose(ScriptedAgent):
    """Takes some turns of the loop to close, as a process does."""

    async def close(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await super().close()


@dataclass(slots=True)
class Maker(ScriptedMaker):
    """Starts and ends agents as slowly as processes, in turns of the loop."""

    failing: int = 0

    async def start(self, spec: AgentSpec) -> ScriptedAgent:
        if self.failing:
            self.failing -= 1
            await asyncio.sleep(0)
            raise AgentStartError(StartFault.EXITED, "the test says so")
        made = await ScriptedMaker.start(self, spec)
        made.__class__ = SlowToClose
        for _ in range(2):
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                await made.close()
                raise
        return made


async def use(pool: AgentPool, which: AgentSpec) -> SessionId:
    async with pool.lease(which) as agent:
        return agent.session


async def test_the_same_session_gets_the_same_process() -> None:
    """Warm only for the same conversation and session."""
    maker = Maker()
    pool = AgentPool(maker, 3, idle_seconds=60)
    first = await use(pool, spec("a"))
    assert pool.counts() == PoolCounts(0, 0, 1, 0)
    assert await use(pool, spec("a", first)) == first
    assert maker.started == 1
    await use(pool, spec("a", SessionId(str(uuid.uuid4()))))
    assert maker.started == 2
    await use(pool, spec("a"))
    assert maker.started == 3
    assert maker.live == 1
    await pool.close()
    assert maker.live == 0


async def test_the_least_recently_used_makes_room() -> None:
    """A full pool closes the idle agent that was used longest ago."""
    maker = Maker()
    pool = AgentPool(maker, 2, idle_seconds=60)
    a, b = await use(pool, spec("a")), await use(pool, spec("b"))
    await use(pool, spec("a", a))
    await use(pool, spec("c"))
    assert maker.most == 2
    started = maker.started
    assert await use(pool, spec("a", a)) == a
    assert maker.started == started
    await use(pool, spec("b", b))
    assert maker.started == started + 1
    await pool.close()


async def test_room_is_given_in_order_of_arrival() -> None:
    """First come, first served; who gives up loses his place and nothing else."""
    pool = AgentPool(Maker(), 1, idle_seconds=60)
    order: list[str] = []

    async def run(name: str) -> None:
        async with pool.lease(spec(name)):
            order.append(name)
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(run(name)) for name in "abcde"]
    await asyncio.sleep(0)
    tasks[2].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert order == list("abde")
    assert pool.counts() == PoolCounts(0, 0, 1, 0)
    await pool.close()


async def test_idle_agents_end_by_themselves() -> None:
    """After `idle_seconds` an unused process is closed, not before."""
    maker = Maker()
    pool = AgentPool(maker, 2, idle_seconds=0.05)
    await use(pool, spec("a"))
    assert maker.live == 1
    async with asyncio.timeout(5):
        while maker.live:
            await asyncio.sleep(0.01)
    assert pool.counts().total == 0


async def test_a_failed_or_dead_lease_closes_the_agent() -> None:
    """On return from a failed lease the process is gone."""
    maker = Maker()
    pool = AgentPool(maker, 1, idle_seconds=60)
    with pytest.raises(ZeroDivisionError):
        async with pool.lease(spec("a")):
            _ = 1 // 0
    assert maker.live == 0
    async with pool.lease(spec("a")) as agent:
        await agent.close()
    async with asyncio.timeout(5):
        while pool.counts().total:
            await asyncio.sleep(0)
    await use(pool, spec("b"))
    await pool.close()


async def test_a_failed_start_gives_its_room_back() -> None:
    """The next one is not held up by it."""
    maker = unstartable()
    pool = AgentPool(maker, 1, idle_seconds=60)
    for _ in range(3):
        with pytest.raises(AgentStartError):
            await use(pool, spec("a"))
    maker.fault = None
    await use(pool, spec("a"))
    await pool.close()


async def test_forget_ends_what_is_idle_now_and_what_works_later() -> None:
    """After `/new` no process of the old session is left."""
    maker = Maker()
    pool = AgentPool(maker, 2, idle_seconds=60)
    await use(pool, spec("a"))
    await pool.forget(ConversationId("a"))
    assert maker.live == 0
    async with pool.lease(spec("a")):
        await pool.forget(ConversationId("a"))
        assert maker.live == 1
    async with asyncio.timeout(5):
        while maker.live:
            await asyncio.sleep(0)
    await pool.forget(ConversationId("never seen"))
    await pool.close()


async def test_one_conversation_has_one_process() -> None:
    """A second lease of a conversation waits for the first, whatever room there is."""
    maker = Maker()
    pool = AgentPool(maker, 5, idle_seconds=60)
    inside = 0

    async def run() -> None:
        nonlocal inside
        async with pool.lease(spec("a")):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1

    async with asyncio.timeout(5):
        await asyncio.gather(*(run() for _ in range(4)))
    assert maker.most == 1
    await pool.close()


async def test_less_capacity_kills_nobody() -> None:
    """Lowered below what works: nothing is ended, nothing started; idle ones go."""
    maker = Maker()
    pool = AgentPool(maker, 3, idle_seconds=60)
    await use(pool, spec("idle"))
    async with pool.lease(spec("a")) as a, pool.lease(spec("b")) as b:
        pool.capacity = 1
        async with asyncio.timeout(5):
            while pool.counts().total > 2:
                await asyncio.sleep(0)
        assert a.alive
        assert b.alive
        waiting = asyncio.ensure_future(use(pool, spec("c")))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        assert pool.counts() == PoolCounts(0, 2, 0, 0)
    async with asyncio.timeout(5):
        await waiting
    assert pool.counts().total == 1
    pool.capacity = 2
    await pool.close()


async def test_close_ends_working_and_waiting_too() -> None:
    """All at once; who waits is told, and nothing starts any more."""
    maker = Maker()
    pool = AgentPool(maker, 1, idle_seconds=60)

    async def hold(agent: Agent) -> None:
        while agent.alive:
            await asyncio.sleep(0)
        raise RuntimeError

    async def work() -> None:
        async with pool.lease(spec("a")) as agent:
            await hold(agent)

    working = asyncio.ensure_future(work())
    waiting = asyncio.ensure_future(use(pool, spec("b")))
    for _ in range(10):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await pool.close()
        assert maker.live == 0
        with pytest.raises(RuntimeError):
            await working
        with pytest.raises(AgentStartError):
            await waiting
        with pytest.raises(AgentStartError):
            await use(pool, spec("c"))


class Survivor(ScriptedAgent):
    """Its processes survive two tries to end it."""

    tries = 0

    async def close(self) -> None:
        self.tries += 1
        if self.tries <= 2:
            raise TreeSurvivesError("it", (7,))
        await super().close()


async def fail(pool: AgentPool, which: AgentSpec) -> None:
    async with pool.lease(which) as agent:
        agent.__class__ = Survivor
        _ = 1 // 0


async def test_what_survives_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its processes are gone nobody takes its room, and others' idle ones make room."""
    monkeypatch.setattr("larkline.agents.pool.RETRY_SECONDS", (0.05, 0.05))
    maker = ScriptedMaker()
    pool = AgentPool(maker, 2, idle_seconds=60)
    await use(pool, spec("idle"))
    with pytest.raises(ZeroDivisionError):
        await fail(pool, spec("a"))
    assert pool.counts() == PoolCounts(0, 0, 1, 1)
    with pytest.raises(AgentStartError):
        await use(pool, spec("a"))
    async with asyncio.timeout(5):
        await use(pool, spec("b"))
        assert maker.most == 2
        while pool.counts().closing:
            await asyncio.sleep(0.01)
        await use(pool, spec("a"))
        await pool.close()
    assert maker.live == 0


async def test_the_end_does_not_wait_for_what_survives() -> None:
    """At the pool's end it is tried once more and told."""
    maker = ScriptedMaker()
    pool = AgentPool(maker, 2, idle_seconds=60)
    with pytest.raises(ZeroDivisionError):
        await fail(pool, spec("a"))
    async with asyncio.timeout(5):
        await pool.close()
    assert pool.counts().total == 0


MOVES = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),  # conversation
        st.sampled_from(["clean", "fail", "dead", "cancel", "forget", "resize", "nostart"]),
        st.integers(0, 6),  # turns of the loop it takes, or new capacity
        st.booleans(),  # the session it knows
        st.integers(0, 4),  # turns of the loop before the next
    ),
    min_size=15,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), MOVES)
def test_whatever_happens_the_capacity_holds(
    capacity: int, moves: list[tuple[str, str, int, bool, int]]
) -> None:
    """Random leases, failures, cancels, resizes: never above capacity, never stuck."""
    asyncio.run(play(capacity, moves))


async def play(capacity: int, moves: list[tuple[str, str, int, bool, int]]) -> None:
    maker = Maker()
    pool = AgentPool(maker, capacity, idle_seconds=60)
    highest = capacity
    sessions: dict[str, SessionId] = {}
    alone: set[str] = set()

    async def lease(name: str, how: str, steps: int, knows: bool) -> None:
        resume = sessions.get(name) if knows else None
        async with pool.lease(spec(name, resume)) as agent:
            assert resume is None or agent.session == resume
            assert name not in alone
            alone.add(name)
            try:
                sessions[name] = agent.session
                check()
                for _ in range(steps):
                    await asyncio.sleep(0)
                    check()
                if how == "dead":
                    await agent.close()
                if how == "fail":
                    raise LookupError
            finally:
                alone.discard(name)

    def check() -> None:
        assert maker.live <= highest
        counts = pool.counts()
        assert min(counts.starting, counts.working, counts.idle, counts.closing) >= 0
        assert counts.total <= highest

    tasks = []
    for name, how, steps, knows, rest in moves:
        if how == "forget":
            tasks.append(asyncio.ensure_future(pool.forget(ConversationId(name))))
        elif how == "nostart":
            maker.failing += 1
        elif how == "resize":
            pool.capacity = max(1, steps)
            highest = max(highest, pool.capacity)
        else:
            task = asyncio.ensure_future(lease(name, how, steps, knows))
            tasks.append(task)
            if how == "cancel":
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
        for _ in range(rest):
            await asyncio.sleep(0)
            check()
    async with asyncio.timeout(5):
        for task in tasks:
            with suppress(asyncio.CancelledError, LookupError, AgentStartError):
                await task
        await pool.close()
    assert maker.live == 0
    assert pool.counts().total == 0
