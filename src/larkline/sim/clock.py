"""The simulator's own clock: real time plus an offset that tests may push forward."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable


class Timer:
    """One callback due at a moment of the simulator's clock; `cancel` is idempotent."""

    __slots__ = ("_callback", "_gone", "due", "patience_until")

    def __init__(self, due: float, callback: Callable[[], None], patience_until: float) -> None:
        self.due = due
        self.patience_until = patience_until
        self._callback: Callable[[], None] | None = callback
        self._gone = asyncio.Event()

    @property
    def pending(self) -> bool:
        """Whether it is still going to fire."""
        return self._callback is not None

    def cancel(self) -> None:
        """Make sure it never fires."""
        self._callback = None
        self._gone.set()

    def fire(self) -> None:
        """Run the callback, once in a timer's life."""
        callback, self._callback = self._callback, None
        self._gone.set()
        if callback is not None:
            callback()

    async def settled(self, seconds: float) -> None:
        """Wait until it fired or was cancelled, at most `seconds` of real time."""
        try:
            await asyncio.wait_for(self._gone.wait(), seconds)
        except TimeoutError:
            return


class SimClock:
    """Unix seconds that run like real ones and jump when a test says so.

    Timers fire in order of their due moment, ties in order of creation, both when real time
    reaches them and inside `advance`. A timer with `patience` stands for something the other
    side may still prevent (an acknowledgement on its way): a jump over it first gives the other
    side that many real seconds, counted from the timer's creation.
    """

    def __init__(self) -> None:
        self._origin = time.time() - time.monotonic()
        self._offset = 0.0
        self._heap: list[tuple[float, int, Timer]] = []
        self._ids = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None
        self._jump = asyncio.Lock()

    def now(self) -> float:
        """Unix seconds on this clock."""
        return self._origin + time.monotonic() + self._offset

    def call_later(
        self, delay: float, callback: Callable[[], None], *, patience: float = 0.0
    ) -> Timer:
        """Run `callback` on the loop `delay` seconds from now; needs a running loop."""
        timer = Timer(self.now() + delay, callback, time.monotonic() + patience)
        heapq.heappush(self._heap, (timer.due, next(self._ids), timer))
        self._arm()
        return timer

    async def sleep(self, delay: float) -> None:
        """Wait `delay` seconds of this clock."""
        woken = asyncio.Event()
        timer = self.call_later(delay, woken.set)
        try:
            await woken.wait()
        finally:
            timer.cancel()

    async def advance(self, seconds: float) -> None:
        """Jump forward and fire everything that falls due on the way, in order.

        Returns once the clock stands `seconds` (or a little more) after where it stood.
        """
        async with self._jump:
            target = self.now() + seconds
            while (timer := self._next()) is not None and timer.due <= target:
                patience = timer.patience_until - time.monotonic()
                if patience > 0:
                    await timer.settled(patience)
                    if not timer.pending:
                        continue
                self._offset += max(0.0, timer.due - self.now())
                timer.fire()
                await asyncio.sleep(0)
            self._offset += max(0.0, target - self.now())
            self._arm()

    def close(self) -> None:
        """Forget every timer."""
        for _, _, timer in self._heap:
            timer.cancel()
        self._heap.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _next(self) -> Timer | None:
        while self._heap and not self._heap[0][2].pending:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        timer = self._next()
        if timer is not None:
            delay = max(0.0, timer.due - self.now())
            self._alarm = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        while (timer := self._next()) is not None and timer.due <= self.now():
            timer.fire()
        self._arm()
