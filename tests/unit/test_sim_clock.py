"""The simulator's clock: order, jumps, patience."""

from __future__ import annotations

import asyncio
import time

from larkline.sim.clock import SimClock


async def test_a_jump_fires_what_falls_due_in_order() -> None:
    """Due order, not creation order; each sees its own moment; nothing beyond the jump."""
    clock = SimClock()
    seen: list[tuple[str, int]] = []
    start = clock.now()

    def note(name: str) -> None:
        seen.append((name, round(clock.now() - start)))

    clock.call_later(3600, lambda: note("hour"))
    clock.call_later(15, lambda: note("quarter"))
    clock.call_later(7200, lambda: note("later"))
    await clock.advance(3600.5)
    assert seen == [("quarter", 15), ("hour", 3600)]
    clock.close()
    await clock.advance(7200)
    assert len(seen) == 2


async def test_timers_made_on_the_way_fire_on_the_way() -> None:
    """A chain of timers runs through in one jump."""
    clock = SimClock()
    left = [5]

    def again() -> None:
        left[0] -= 1
        if left[0]:
            clock.call_later(100, again)

    clock.call_later(100, again)
    await clock.advance(501)
    assert left == [0]


async def test_cancelled_timers_stay_silent_and_real_time_fires_too() -> None:
    """Without a jump, a short timer fires by itself; a cancelled one never does."""
    clock = SimClock()
    fired = asyncio.Event()
    silent = clock.call_later(0.01, lambda: (_ for _ in ()).throw(AssertionError))
    silent.cancel()
    clock.call_later(0.02, fired.set)
    await asyncio.wait_for(fired.wait(), 5)
    assert not silent.pending


async def test_a_jump_waits_for_the_patient_only_as_long_as_told() -> None:
    """Two timers with the same patience cost one wait; one settled in time costs none of it."""
    clock = SimClock()
    fired: list[int] = []
    for number in range(20):
        clock.call_later(3, lambda n=number: fired.append(n), patience=0.1)  # type: ignore[misc]
    begun = time.monotonic()
    await clock.advance(3.5)
    assert fired == list(range(20))
    assert 0.05 < time.monotonic() - begun < 1.0


async def test_sleep_follows_the_clock() -> None:
    """A sleeper of an hour wakes when the hour is jumped over."""
    clock = SimClock()
    sleeper = asyncio.create_task(clock.sleep(3600))
    await asyncio.sleep(0)
    await clock.advance(3600)
    await asyncio.wait_for(sleeper, 1)
