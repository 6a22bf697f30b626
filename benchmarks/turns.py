"""Warm and cold turns against a one-shot `claude -p`, on the same offline model, interleaved.

Measured from the moment the user's message is written on the platform to the moment the card there
first shows text of the answer. The bars are ratios of medians: warm 0.25, cold 1.2.
"""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

from gateway_kit import Gateway, until

from benchmarks.kit import Figures, one_shot, spread, stage
from larkline.sim.world import Chat

ROUNDS = 20
WARM, COLD = 0.25, 1.2


async def first_text(gateway: Gateway, chat: Chat, n: int) -> tuple[float, int]:
    """Seconds to the first visible text, and the platform calls in a row before it."""
    platform = gateway.platform
    words = f"answer{n}"
    calls = len(platform.calls)
    sent = platform.people.send(platform.users[0], f"[[text:{words}]]", chat=chat, mention=True)
    await gateway.until_shown(sent.message, words, settled=True)
    reply = next(m for m in gateway.shown(sent.message) if words in platform.text(m))
    card = platform.card(reply)
    assert card is not None
    at = next(r.at for r in card.revisions if words in r.text)
    # Text that came with the card is visible when the message is.
    at = max(at, reply.created)
    before = [c for c in platform.calls[calls:] if c.at <= at]
    return at - sent.message.created, len(before)


async def measure() -> Figures:
    """All three, interleaved, then the warm one with a slow platform."""
    async with stage(LARKLINE_LIMITS__MAX_CONCURRENT="3") as gateway:
        await gateway.start()
        platform = gateway.platform
        warm_chat = platform.add_group("warm", platform.users)
        cold_chats = [platform.add_group(f"cold{n}", platform.users) for n in range(3)]
        new_chats = [platform.add_group(f"new{n}", platform.users) for n in range(ROUNDS)]
        for chat in (*cold_chats, warm_chat):
            await first_text(gateway, chat, 0)
        shots, warm, cold, new = [], [], [], []
        for n in range(1, ROUNDS + 1):
            home = Path(gateway.home) / "one-shot"
            shots.append(await one_shot(gateway.model, home, f"[[text:answer{n}]]"))
            warm.append((await first_text(gateway, warm_chat, n))[0])
            # Three processes at most: a chat that was not used for three turns has none.
            cold.append((await first_text(gateway, cold_chats[n % 3], n))[0])
            new.append((await first_text(gateway, new_chats[n - 1], n))[0])
            await first_text(gateway, warm_chat, 1000 + n)
        platform.faults.rest_latency = 0.1
        slow = [await first_text(gateway, warm_chat, 2000 + n) for n in range(ROUNDS)]
        await until(lambda: True)
    base = statistics.median(shots)
    return {
        "what": "seconds from message to first visible text; ratios of medians to one-shot",
        "one_shot": spread(shots),
        "warm": spread(warm),
        "cold": spread(cold),
        "cold_new_conversation": spread(new),
        "warm_with_100ms_a_platform_call": spread([seconds for seconds, _ in slow]),
        "calls_before_first_text": max(calls for _, calls in slow),
        "ratio_warm": round(statistics.median(warm) / base, 3),
        "ratio_cold": round(statistics.median(cold) / base, 3),
        "ratio_cold_new_conversation": round(statistics.median(new) / base, 3),
        "bars": {"ratio_warm": WARM, "ratio_cold": COLD, "calls_before_first_text": 3},
        "met": statistics.median(warm) / base <= WARM
        and statistics.median(cold) / base <= COLD
        and max(calls for _, calls in slow) <= 3,
    }


if __name__ == "__main__":
    print(asyncio.run(measure()))
