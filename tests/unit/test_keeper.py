"""Housekeeping."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from larkline.domain.errors import StoreError
from larkline.stages.keeper import Duty, Keeper


async def test_a_duty_that_fails_is_done_again_and_harms_nobody() -> None:
    """Whatever a duty raises, the keeper lives, and the others have their turn."""
    seen: list[str] = []
    done = asyncio.Event()

    def duty(name: str, error: Exception | None) -> Duty:
        async def work() -> Mapping[str, int]:
            seen.append(name)
            if len(seen) >= 9:
                done.set()
            if error is not None:
                raise error
            return {"things": 1}

        return Duty(name, every=0.01, work=work)

    keeper = Keeper(
        duty("fine", None), duty("full", StoreError("disk full")), duty("odd", OverflowError())
    )
    task = asyncio.create_task(keeper.run())
    async with asyncio.timeout(5):
        await done.wait()
    assert not task.done()
    task.cancel()
    assert set(seen) == {"fine", "full", "odd"}
