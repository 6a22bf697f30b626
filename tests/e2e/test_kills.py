"""SIGKILL at random moments, again and again: nothing is lost, doubled or left behind."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest
from gateway_kit import Gateway, until

pytestmark = [pytest.mark.cli, pytest.mark.slow, pytest.mark.timeout(400)]

KILLS, CHATS, MESSAGES = 6, 4, 4


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_message_has_one_outcome_whatever_is_killed(
    gateway: Gateway, seed: int
) -> None:
    """Each message is answered once, or told once that it was broken off; no process stays."""
    platform, chance = gateway.platform, random.Random(seed)
    gateway.settings["LARKLINE_LIMITS__MAX_CONCURRENT"] = "3"
    chats = [platform.add_group(f"g{n}", platform.users) for n in range(CHATS)]
    sent = {}
    await gateway.start()
    for n in range(MESSAGES):
        for c, chat in enumerate(chats):
            words = f"[[text:answer {c}.{n}]][[tokens:{chance.randrange(5, 60)}]][[delay:0.02]]"
            said = platform.people.send(platform.users[0], words, chat=chat, mention=True)
            sent[f"{c}.{n}"] = said.message
        await asyncio.sleep(0.005)
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(0.0, 5.0))
        await gateway.stop(signal.SIGKILL)
        await until(lambda: not gateway.agents(), 5)
        await gateway.start()
        await platform.clock.advance(20)  # what was not acknowledged comes again
    for message in sent.values():
        await gateway.reply_to(message, 120)
    await gateway.stop()
    assert gateway.agents() == set()
    answered = broken_off = 0
    for name, message in sent.items():
        shown = gateway.shown(message)
        texts = [platform.text(reply) for reply in shown]
        finals = [words for words in texts if "✅" in words or "❌" in words]
        assert len(finals) == 1, (name, texts)
        answered += finals[0].startswith(f"answer {name}") and "✅" in finals[0]
        broken_off += "restarted and broke this task off" in finals[0]
        assert not any(card.streaming for reply in shown if (card := platform.card(reply)))
        # The prompt of a turn that was broken off is never given to the model again.
        asked = [r for r in gateway.model.requests if f"answer {name}]]" in r.prompts[-1]]
        assert len(asked) <= 1, name
    assert answered + broken_off == len(sent)
