"""Event to ack at 200 events/s while 5 agents stream 50 deltas/s each. The bar: p99 below 50 ms.

Measured on the platform's side: from the moment an event goes out to the moment its ack is read.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.kit import Figures, spread, stage

PER_SECOND, SECONDS, AGENTS, DELTAS = 200, 15, 5, 50
BAR = 0.050


async def measure() -> Figures:
    """Five streaming agents, then the flood; queued messages of 50 chats."""
    async with stage(
        rate=DELTAS,
        LARKLINE_LIMITS__QUEUE_TOTAL="100000",
        LARKLINE_LIMITS__QUEUE_PER_CONVERSATION="100000",
    ) as gateway:
        await gateway.start()
        platform = gateway.platform
        user = platform.users[0]
        busy = [platform.add_group(f"busy{n}", platform.users) for n in range(AGENTS)]
        tokens = DELTAS * (SECONDS + 60)
        streaming = [
            platform.people.send(user, f"[[text:go]][[tokens:{tokens}]]", chat=chat, mention=True)
            for chat in busy
        ]
        for each in streaming:
            await gateway.until_shown(each.message, "t9", seconds=90)
        flood = [platform.add_group(f"flood{n}", platform.users) for n in range(50)]
        before = len(platform.ack_seconds())
        began = time.perf_counter()
        for n in range(PER_SECOND * SECONDS):
            platform.people.send(user, f"message {n}", chat=flood[n % 50], mention=True)
            await asyncio.sleep(max(0.0, began + (n + 1) / PER_SECOND - time.perf_counter()))
        took = time.perf_counter() - began
        await platform.until(
            lambda: len(platform.ack_seconds()) - before >= PER_SECOND * SECONDS, 30
        )
        acks = platform.ack_seconds()[before:]
        still = sum(
            bool(card and card.streaming)
            for each in streaming
            for card in map(platform.card, gateway.shown(each.message))
        )
        refused = len(platform.refusals())
    figures = spread(acks)
    return {
        "what": "seconds from event to ack",
        "acks": figures,
        "events_per_second": round(PER_SECOND * SECONDS / took, 1),
        "agents_still_streaming_at_the_end": still,
        "platform_refusals": refused,
        "bars": {"p99": BAR},
        "met": figures["p99"] < BAR and still == AGENTS and refused == 0,
    }
