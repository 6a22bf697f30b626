"""Where platform calls wait for their turn in the app's budgets."""

from __future__ import annotations

import asyncio
import itertools

from larkline.policy import pacing
from larkline.policy.pacing import Api, Call, Limits, Rank, Spent, Wish


class Gate:
    """Lets calls through as `pacing.grant` says. Times are those of the running loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._spent = Spent()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[Wish, asyncio.Future[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def passage(
        self, call: Call, rank: Rank, *, since: float | None = None, handicap: float = 0.0
    ) -> None:
        """Returns when the call may go; it counts as gone from then on."""
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        wish = Wish(number, call, rank, loop.time() if since is None else since, handicap)
        passed: asyncio.Future[None] = loop.create_future()
        self._waiting[number] = (wish, passed)
        self._review()
        try:
            await passed
        finally:
            self._waiting.pop(number, None)

    def hold(self, api: Api, seconds: float) -> None:
        """The platform asked to wait: nothing of that API goes for so long."""
        now = asyncio.get_running_loop().time()
        self._spent = pacing.hold(self._spent, api, now + seconds)

    def _review(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        waiting = [wish for wish, passed in self._waiting.values() if not passed.done()]
        granted = pacing.grant(self._spent, waiting, loop.time(), self._limits)
        self._spent = granted.spent
        for wish in granted.now:
            self._waiting[wish.id][1].set_result(None)
        if granted.again_at is not None:
            # A hair later: a timer that fires early would find the budget not quite free.
            self._timer = loop.call_at(granted.again_at + 0.001, self._review)
