from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from feishu_kit import Inbox, running_chat, until

from larkline.domain.errors import StoreError
from larkline.domain.model import ChatEvent, Inbound, Toast
from larkline.sim.deliveries import Delivery
from larkline.sim.faults import HandshakeRefusal
from larkline.sim.platform import Platform

STORM_SECONDS = 8.0
LADDER = (16.0, 310.0, 3700.0, 22000.0)


def _faults(platform: Platform, chance: random.Random) -> list[Callable[[], Awaitable[object]]]:
    """Ways in which the platform misbehaves from one moment to the next."""
    faults, connections = platform.faults, platform.connections

    async def deaf() -> None:
        faults.deaf = True
        await asyncio.sleep(0.5)
        faults.deaf = False

    async def half_open() -> None:
        connections.half_open()

    async def codes() -> None:
        faults.endpoint_codes = [chance.choice([1, 403, 514, 1000040350])] * 3
        await connections.drop()

    async def statuses() -> None:
        faults.endpoint_status = [chance.choice([302, 404, 500])] * 3
        await connections.drop()

    async def handshakes() -> None:
        faults.handshakes = [HandshakeRefusal(514, "no", 1000040350)] * 3
        await connections.drop()

    async def hang() -> None:
        faults.endpoint_hangs = 1
        await connections.drop()

    async def junk() -> None:
        for link in connections.of(platform.app.app_id):
            link.send_bytes(chance.randbytes(200))

    async def fragments() -> None:
        faults.fragment_bytes = chance.choice([0, 100, 1000])

    async def polite() -> None:
        await connections.drop(rude=False)

    refusals = [codes, statuses, handshakes, hang]
    return [deaf, half_open, *refusals, junk, fragments, polite, connections.drop]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
async def test_no_event_is_lost_in_a_storm(seed: int) -> None:
    """Through drops, silence, refusals, junk and a failing store, every message arrives."""
    chance = random.Random(seed)
    calm = False

    stored: set[str] = set()

    async def flaky(event: ChatEvent) -> Toast | None:
        if not calm and chance.random() < 0.1:
            raise StoreError("full")
        if isinstance(event, Inbound):
            stored.add(event.id)
        return None

    inbox, sent = Inbox(answer=flaky), list[Delivery]()
    async with Platform(seed=seed) as platform:
        faults = _faults(platform, chance)
        async with running_chat(platform.domain, inbox, slack=0.2) as chat:
            await platform.connected()
            end = time.monotonic() + STORM_SECONDS
            while time.monotonic() < end:
                for _ in range(chance.randint(1, 20)):
                    text = "x" * chance.randint(1, 3000)
                    delivery = platform.people.send(chance.choice(platform.users), text).delivery
                    assert delivery is not None
                    sent.append(delivery)
                await chance.choice(faults)()
                await asyncio.sleep(chance.random() * 0.4)
            platform.faults.clear()
            calm = True
            for step in LADDER:
                await until(lambda: chat.connection().connected)
                with suppress(TimeoutError):
                    await until(lambda: all(each.state == "acked" for each in sent), 3.5)
                    break
                await platform.clock.advance(step)
            await until(lambda: all(each.state == "acked" for each in sent), 5)
            assert chat.connection().reconnects > 3
        assert platform.connections.malformed == []
    assert stored == {each.subject for each in sent}
