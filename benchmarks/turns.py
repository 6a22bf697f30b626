"""Warm and cold turns against a one-shot `claude -p`, on the same offline model, interleaved.

Measured from the moment the user's message is written on the platform to the moment the card there
first shows text of the answer. The bars are ratios of medians: warm 0.25, cold 1.2.
"""

from __future__ import annotations

import statistics

from gateway_kit import Gateway, until

from benchmarks.kit import Figures, one_shot, spread, stage
from larkline.sim.world import Chat

ROUNDS = 20
WARM, COLD, CALLS = 0.25, 1.2, 3


# What stands between a turn's start and its first text; a settled turn's last call may overlap.
ON_THE_WAY = ("cardkit.card.create", "im.message.reply", "cardkit.element.content")


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
    before = [c for c in platform.calls[calls:] if c.at <= at and c.api in ON_THE_WAY]
    return at - sent.message.created, len(before)


async def warm_turns() -> tuple[list[float], list[float], list[tuple[float, int]]]:
    """One-shot runs and warm turns, interleaved; then warm turns on a slow platform."""
    shots, warm = [], []
    async with stage() as gateway:
        await gateway.start()
        chat = gateway.platform.add_group("warm", gateway.platform.users)
        await first_text(gateway, chat, 0)
        for n in range(1, ROUNDS + 1):
            home = gateway.home / "one-shot"
            shots.append(await one_shot(gateway.model, home, f"[[text:answer{n}]]"))
            warm.append((await first_text(gateway, chat, n))[0])
        gateway.platform.faults.rest_latency = 0.1
        slow = [await first_text(gateway, chat, 2000 + n) for n in range(ROUNDS)]
    return shots, warm, slow


async def cold_turns() -> tuple[list[float], list[float], list[float]]:
    """One-shot runs, turns of a known conversation without a process, first turns; interleaved."""
    shots, cold, new = [], [], []
    async with stage(LARKLINE_AGENT__IDLE_SECONDS="0.2") as gateway:
        await gateway.start()
        platform = gateway.platform
        known = platform.add_group("known", platform.users)
        await first_text(gateway, known, 0)
        for n in range(1, ROUNDS + 1):
            await until(lambda: not gateway.agents())
            home = gateway.home / "one-shot"
            shots.append(await one_shot(gateway.model, home, f"[[text:answer{n}]]"))
            cold.append((await first_text(gateway, known, n))[0])
            await until(lambda: not gateway.agents())
            chat = platform.add_group(f"new{n}", platform.users)
            new.append((await first_text(gateway, chat, n))[0])
    return shots, cold, new


async def measure() -> Figures:
    """All of it."""
    warm_shots, warm, slow = await warm_turns()
    cold_shots, cold, new = await cold_turns()
    calls = max(calls for _, calls in slow)
    ratios = {
        "ratio_warm": statistics.median(warm) / statistics.median(warm_shots),
        "ratio_cold": statistics.median(cold) / statistics.median(cold_shots),
        "ratio_cold_new_conversation": statistics.median(new) / statistics.median(cold_shots),
    }
    return {
        "what": "seconds from message to first visible text; ratios of medians to one-shot",
        "one_shot_beside_warm": spread(warm_shots),
        "warm": spread(warm),
        "one_shot_beside_cold": spread(cold_shots),
        "cold": spread(cold),
        "cold_new_conversation": spread(new),
        "warm_with_100ms_a_platform_call": spread([seconds for seconds, _ in slow]),
        "calls_before_first_text": calls,
        **{name: round(value, 3) for name, value in ratios.items()},
        "bars": {"ratio_warm": WARM, "ratio_cold": COLD, "calls_before_first_text": CALLS},
        "met": ratios["ratio_warm"] <= WARM and ratios["ratio_cold"] <= COLD and calls <= CALLS,
    }
