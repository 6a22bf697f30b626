"""10 conversations with 5 messages each, every event delivered twice and shuffled.

The bar: 50 answers, once each, in the order of writing, never more processes than the limit.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.kit import Figures, stage

CHATS, MESSAGES, LIMIT = 10, 5, 5


async def measure() -> Figures:
    """As after an outage: the platform delivers what it held back."""
    async with stage(LARKLINE_LIMITS__MAX_CONCURRENT=str(LIMIT)) as gateway:
        await gateway.start()
        platform = gateway.platform
        chats = [platform.add_group(f"g{n}", platform.users) for n in range(CHATS)]
        platform.deliveries.hold()
        sent = []
        for n in range(MESSAGES):
            words = f"[[text:answer {n}]]"
            sent += [
                platform.people.send(platform.users[0], words, chat=chat, mention=True)
                for chat in chats
            ]
            await asyncio.sleep(0.005)  # the platform's times are whole milliseconds
        await asyncio.sleep(2.2)  # younger messages count as fresh
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(gateway.clis()))
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        began = time.perf_counter()
        platform.deliveries.release(shuffle=True, copies=2)
        for each in sent:
            await gateway.reply_to(each.message, 180)
        took = time.perf_counter() - began
        watching.cancel()
        answers, in_order = 0, True
        for chat in chats:
            texts = [platform.text(reply) for reply in platform.replies(chat)]
            lines = [words.split("\n")[0] for words in texts if words.startswith("answer")]
            answers += len(lines)
            in_order = in_order and lines == [f"answer {n}" for n in range(MESSAGES)]
        refused = len(platform.refusals())
    return {
        "what": "answers of 10 conversations x 5 messages, each delivered twice, all shuffled",
        "answers": answers,
        "in_order_once_each": in_order,
        "most_processes": most,
        "limit": LIMIT,
        "platform_refusals": refused,
        "seconds": round(took, 2),
        "bars": {"answers": CHATS * MESSAGES, "most_processes": LIMIT},
        "met": answers == CHATS * MESSAGES and in_order and most <= LIMIT and refused == 0,
    }
