"""Event to ack at 200 events/s while 5 agents stream 50 deltas/s each. The bar: p99 below 50 ms.

Measured on the platform's side: from the moment an event goes out to the moment its ack is read.
Five floods of 1,600 events; the bar is held against the median of their p99s, since a machine that
pauses for some ten milliseconds spoils a whole flood's.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from benchmarks.kit import Figures, spread, stage
from larkline.sim.platform import Platform
from larkline.sim.world import Chat

PER_SECOND, SECONDS, FLOODS, AGENTS, DELTAS = 200, 8, 5, 5, 50
BAR = 0.050


async def flood(platform: Platform, chats: list[Chat]) -> tuple[list[float], float]:
    """The acks of one flood, and the events a second that it came to."""
    count, before = PER_SECOND * SECONDS, len(platform.ack_seconds())
    began = time.perf_counter()
    for n in range(count):
        platform.people.send(platform.users[0], f"message {n}", chat=chats[n % 50], mention=True)
        await asyncio.sleep(max(0.0, began + (n + 1) / PER_SECOND - time.perf_counter()))
    took = time.perf_counter() - began
    await platform.until(lambda: len(platform.ack_seconds()) - before >= count, 30)
    return platform.ack_seconds()[before:], count / took


async def measure() -> Figures:
    """Five streaming agents, then the floods; queued messages of 50 chats."""
    async with stage(
        rate=DELTAS,
        LARKLINE_LIMITS__QUEUE_TOTAL="100000",
        LARKLINE_LIMITS__QUEUE_PER_CONVERSATION="100000",
    ) as gateway:
        await gateway.start()
        platform = gateway.platform
        user = platform.users[0]
        busy = [platform.add_group(f"busy{n}", platform.users) for n in range(AGENTS)]
        tokens = DELTAS * (FLOODS * SECONDS + 60)
        streaming = [
            platform.people.send(user, f"[[text:go]][[tokens:{tokens}]]", chat=chat, mention=True)
            for chat in busy
        ]
        for each in streaming:
            await gateway.until_shown(each.message, "t9", seconds=90)
        chats = [platform.add_group(f"flood{n}", platform.users) for n in range(50)]
        floods = [await flood(platform, chats) for _ in range(FLOODS)]
        still = sum(
            bool(card and card.streaming)
            for each in streaming
            for card in map(platform.card, gateway.shown(each.message))
        )
        refused = len(platform.refusals())
    p99 = statistics.median(spread(acks)["p99"] for acks, _ in floods)
    return {
        "what": "seconds from event to ack",
        "floods": [spread(acks) for acks, _ in floods],
        "p99_median_of_floods": p99,
        "events_per_second": [round(rate, 1) for _, rate in floods],
        "agents_still_streaming_at_the_end": still,
        "platform_refusals": refused,
        "bars": {"p99_median_of_floods": BAR},
        "met": p99 < BAR and still == AGENTS and refused == 0,
    }
