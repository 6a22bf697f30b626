"""Housekeeping by the clock: prunes, sweeps, and tells what it did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from larkline.domain.errors import LarklineError

log = structlog.get_logger()

Work = Callable[[], Awaitable[Mapping[str, int]]]
"""Does a duty; returns counts of what it did, by name."""


@dataclass(frozen=True, slots=True)
class Duty:
    """Something to be done every `every` seconds; the first time after `first`."""

    name: str
    every: float
    work: Work
    first: float = 0.0


class Keeper:
    """Does its duties, one after the other, until cancelled."""

    def __init__(self, *duties: Duty, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        now = clock()
        self._next = {duty: now + duty.first for duty in duties}

    async def run(self) -> None:
        """A duty that fails is logged and done again at its next time."""
        while True:
            duty = min(self._next, key=self._next.__getitem__)
            await asyncio.sleep(max(0.0, self._next[duty] - self._clock()))
            await self._do(duty)
            self._next[duty] = self._clock() + duty.every

    async def _do(self, duty: Duty) -> None:
        try:
            done = await duty.work()
        except (LarklineError, OSError) as exc:
            log.warning("duty failed", duty=duty.name, error=str(exc))
            return
        except Exception:
            # A boundary: housekeeping must not end what it keeps house for.
            log.exception("duty failed", duty=duty.name)
            return
        if any(done.values()):
            log.info("duty done", duty=duty.name, **done)


def prune_duty(prune: Callable[[], Awaitable[Mapping[str, int]]]) -> Duty:
    """Retention: hourly, first five minutes after the start."""
    return Duty("prune", every=3600.0, work=prune, first=300.0)


def sweep_duty(sweep: Callable[[], Awaitable[Mapping[str, int]]]) -> Duty:
    """Left-behind processes and folders: every minute."""
    return Duty("sweep", every=60.0, work=sweep, first=60.0)
