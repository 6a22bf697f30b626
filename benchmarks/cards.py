"""50 cards streaming at once under the platform's budgets, with scripted agents.

Bars: no refusal, every card refreshed at least every 4 s while its agent speaks, finals first (a
turn that ends among 49 streaming ones shows its final within 2 s).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

from gateway_kit import until

from benchmarks.kit import Figures, spread
from larkline.agents.pool import AgentPool
from larkline.agents.scripted import ScriptedMaker
from larkline.chats.feishu.chat import FeishuChat
from larkline.chats.feishu.settings import FeishuSettings
from larkline.domain.model import Claim, Outcome
from larkline.lifecycle import running
from larkline.policy.admission import Admission
from larkline.sim.platform import Platform
from larkline.stages.commands import Actions, Commands
from larkline.stages.intake import Intake, IntakeSettings
from larkline.stages.outbox import Outbox, OutboxSettings
from larkline.stages.runner import Runner, RunnerSettings
from larkline.stages.scheduler import Scheduler
from larkline.stores.sqlite import open_sqlite

CARDS, SECONDS, GAP, FINAL = 50, 60, 4.0, 2.0


@asynccontextmanager
async def scripted_gateway(platform: Platform, database: Path) -> AsyncIterator[dict[int, float]]:
    """The stages over the real store and transport, with agents that are scripts.

    Gives the moments at which turns were settled, by turn.
    """
    ended: dict[int, float] = {}
    store = await open_sqlite(database)
    pool = AgentPool(ScriptedMaker(), CARDS, idle_seconds=60)
    settings = FeishuSettings(platform.app.app_id, platform.app.secret, platform.domain)
    async with FeishuChat(settings) as chat:
        outbox = Outbox(store, chat, OutboxSettings(language="en"))
        runner = Runner(
            RunnerSettings("en"),
            lease=pool.lease,
            forget=pool.forget,
            open_reply=outbox.open_reply,
            first_text=lambda seconds: None,
        )

        def settled(claim: Claim, outcome: Outcome, seconds: float) -> None:
            ended[claim.turn.id] = platform.clock.now()
            outbox.wake()

        scheduler = Scheduler(
            store, runner.run, limit=lambda: CARDS, language="en",
            settled=settled, announced=outbox.wake,
        )  # fmt: skip

        async def nothing(*_: object) -> int:
            return 0

        async def no_status(*_: object) -> str:
            return ""

        commands = Commands(Actions(lambda each: False, scheduler.stop, nothing, no_status), "en")

        intake = Intake(
            store,
            IntakeSettings(Admission(policy="open"), "en", CARDS, 20, 500),
            judge_command=commands.judge,
            carry_out=commands.carry_out,
            bot=lambda: chat.connection().bot,
            wake=lambda standing: scheduler.wake(),
            settle_in=scheduler.settle_in,
        )
        async with (
            running("outbox", outbox.run(), drain=lambda: outbox.drain(30)),
            running("scheduler", scheduler.run(), drain=lambda: scheduler.drain(30)),
            running("chat", chat.run(intake.receive)),
        ):
            await chat.connected()
            await chat.identified()
            yield ended
    await pool.close()
    await store.close()


async def measure() -> Figures:
    """50 agents speak 10 words a second for a minute; one of them ends early."""
    with tempfile.TemporaryDirectory(prefix="larkline-bench-") as home:
        async with Platform() as platform:
            user = platform.users[0]
            chats = [platform.add_group(f"g{n}", platform.users) for n in range(CARDS)]
            async with scripted_gateway(platform, Path(home) / "db") as ended:
                began = time.perf_counter()
                sent = []
                for n, chat in enumerate(chats):
                    tokens = 150 if n % 10 == 0 else SECONDS * 10
                    words = f"[[delay:0.1]][[tokens:{tokens}]]"
                    sent.append(platform.people.send(user, words, chat=chat, mention=True))
                await until(lambda: len(ended) == CARDS, SECONDS + 60)
                took = time.perf_counter() - began
                await platform.until(
                    lambda: all(not card.streaming for card in platform.cards.all.values()), 60
                )
        gaps, finals, calls = [], [], len(platform.calls)
        for number, each in enumerate(sent, 1):
            (reply,) = platform.replies(platform.world.chats[each.message.chat_id])
            card = platform.card(reply)
            assert card is not None
            shown = [r.at for r in card.revisions]
            gaps.append(max(b - a for a, b in pairwise(shown)))
            finals.append(shown[-1] - ended[number])
        refused = platform.refusals()
    return {
        "what": "50 cards streaming at once; seconds",
        "longest_gap_between_refreshes": spread(gaps, 2),
        "settled_to_final_shown": spread(finals, 2),
        "platform_calls": calls,
        "platform_refusals": len(refused),
        "seconds": round(took, 1),
        "bars": {"longest_gap": GAP, "final": FINAL, "platform_refusals": 0},
        "met": max(gaps) <= GAP and max(finals) <= FINAL and not refused,
    }
