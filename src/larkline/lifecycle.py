"""Tasks that belong to somebody: stages that start, run and end in nested order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


class StageEndedError(Exception):
    """A stage that should run for ever ended by itself."""


@asynccontextmanager
async def running(
    name: str,
    stage: Coroutine[object, object, None],
    *,
    drain: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[asyncio.Task[None]]:
    """Run `stage` beside the block; at the block's end call `drain`, then cancel the stage.

    Nesting is the shutdown order. A stage that fails or ends unasked cancels the block and raises
    there. `drain` runs to its end also under cancellation, and bounds its own waits.
    """
    owner = asyncio.current_task()
    if owner is None:  # pragma: no cover - asynccontextmanager always runs in a task
        raise RuntimeError("running() needs a task")
    task = asyncio.create_task(stage, name=name)
    ended_unasked = False
    closing = False

    def on_end(ended: asyncio.Task[None]) -> None:
        nonlocal ended_unasked
        if not closing and not ended.cancelled():
            ended_unasked = True
            owner.cancel(f"stage {name} ended")

    task.add_done_callback(on_end)
    try:
        try:
            yield task
        finally:
            closing = True
            if drain is not None and not ended_unasked:
                await to_the_end(drain())
            task.cancel()
            await to_the_end(asyncio.wait([task]))
    except asyncio.CancelledError:
        if not ended_unasked:
            raise
        owner.uncancel()
    if not task.cancelled():
        error = task.exception()
        if error is not None:
            raise error
    if ended_unasked:
        raise StageEndedError(f"stage {name} ended unasked")


async def to_the_end(work: Awaitable[T]) -> T:
    """Await `work` to its end even when cancelled meanwhile; then re-raise the cancellation.

    `work` bounds its own waits. Asyncio's own shield alone would leave the work to nobody.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            if task.cancelled():
                raise
            cancelled = exc
        except BaseException:
            if not task.done():
                raise
    if cancelled is not None:
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()
