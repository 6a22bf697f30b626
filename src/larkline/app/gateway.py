"""A running gateway: all parts joined, started in order, ended in reverse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from larkline import __version__
from larkline.agents.broker import Broker
from larkline.agents.claude import ClaudeMaker
from larkline.agents.isolation import Isolation
from larkline.agents.launcher import claim_resume_root
from larkline.agents.pool import AgentPool
from larkline.agents.probing import probe
from larkline.agents.sweeping import Instance, Orphans, become_subreaper, new_instance, sweep
from larkline.app.parts import (
    admission,
    agent_maker,
    feishu_settings,
    make_folders,
    places,
    upstream,
    web_settings,
)
from larkline.chats.feishu.chat import FeishuChat
from larkline.config import Settings
from larkline.domain.errors import (
    AgentStartError,
    LarklineError,
    SettingsError,
    StoreError,
)
from larkline.domain.model import (
    ChatEvent,
    Claim,
    ConversationId,
    Ending,
    Outcome,
    Standing,
    Toast,
)
from larkline.lifecycle import running
from larkline.ports import Cutoffs, Store
from larkline.stages.commands import Actions, Commands
from larkline.stages.intake import Intake, IntakeSettings
from larkline.stages.keeper import Keeper, prune_duty, sweep_duty
from larkline.stages.outbox import Outbox, OutboxSettings
from larkline.stages.renderer import elapsed
from larkline.stages.runner import Runner, RunnerSettings
from larkline.stages.scheduler import Scheduler
from larkline.stores.sqlite import open_sqlite
from larkline.telemetry.metrics import Metrics
from larkline.texts import text
from larkline.web.endpoints import Endpoints

log = structlog.get_logger()

_DELIVER_AT_END = 15.0
_STORE_PAUSE = 5.0
_DAY = 86400.0


class Gateway:
    """All parts of a running gateway, and how they are joined."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        chat: FeishuChat,
        maker: ClaudeMaker,
        isolation: Isolation,
        instance: Instance,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._store = store
        self._chat = chat
        self._maker = maker
        self._isolation = isolation
        self._instance = instance
        self._metrics = metrics
        self._began = time.monotonic()
        self._orphans = Orphans()
        limits, agent, language = settings.limits, settings.agent, settings.language
        self._pool = AgentPool(
            maker, limits.max_concurrent + agent.idle_extra, idle_seconds=agent.idle_seconds
        )
        self._outbox = Outbox(
            store, chat, OutboxSettings(language=language), observe=metrics.observe_delivery
        )
        self._runner = Runner(
            RunnerSettings(language, agent.silence_seconds, agent.turn_seconds),
            lease=self._pool.lease,
            forget=self._pool.forget,
            open_reply=self._outbox.open_reply,
            first_text=metrics.first_text_seconds.observe,
        )
        self._scheduler = Scheduler(
            store,
            self._runner.run,
            limit=lambda: limits.max_concurrent,
            language=language,
            settled=self._settled,
            announced=self._outbox.wake,
        )
        commands = Commands(
            Actions(
                is_running=lambda each: self._scheduler.running_since(each) is not None,
                stop=self._scheduler.stop,
                queued=self._queued,
                status=self._status,
            ),
            language,
        )
        self._intake = Intake(
            store,
            IntakeSettings(
                admission=admission(settings, isolation),
                language=language,
                max_concurrent=limits.max_concurrent,
                queue_per_conversation=limits.queue_per_conversation,
                queue_total=limits.queue_total,
                reject=limits.overflow == "reject",
            ),
            judge_command=commands.judge,
            carry_out=commands.carry_out,
            bot=lambda: chat.connection().bot,
            wake=self._wake,
            settle_in=self._scheduler.settle_in,
        )
        self._gauges()

    @classmethod
    async def build(cls, settings: Settings, stack: AsyncExitStack) -> Gateway:
        """Open what a gateway needs; `stack` closes it. The data directory is held by the caller.

        Raises: SettingsError, StoreError.
        """
        where = places(settings)
        make_folders(where)
        store = await open_sqlite(settings.database)
        stack.push_async_callback(store.close)
        become_subreaper()
        claim_resume_root(where.resumes)  # for this process: nothing of sessions lies in /tmp
        instance = new_instance(where.agents)
        swept = await sweep(instance, where.agents, where.resumes, frozenset(), at_start=True)
        if swept.processes:
            log.warning("ended what an earlier run left behind", processes=swept.processes)
        isolation = await probe(settings.agent.isolation, where.agents)
        if settings.agent.isolation == "full" and isolation.level != "full":
            why = "; ".join(isolation.refusals)
            raise SettingsError(f"agent.isolation: full does not work here ({why})")
        metrics = Metrics()
        chat = await stack.enter_async_context(
            FeishuChat(feishu_settings(settings), observe=metrics.observe_call)
        )
        broker = None
        endpoint = upstream(settings)
        if endpoint is not None:
            silence = settings.agent.stream_silence_seconds
            broker = await stack.enter_async_context(Broker(endpoint, silence_seconds=silence))
        maker = agent_maker(settings, where, isolation, instance, store, broker)
        return cls(settings, store, chat, maker, isolation, instance, metrics)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Serve during the block; then end in order: intake, turns, agents, replies."""
        await self._settle_orphans()
        endpoints = Endpoints(
            web_settings(self._settings),
            reasons=self._reasons,
            metrics=self._metrics_text if self._settings.metrics.enabled else None,
        )
        keeper = Keeper(prune_duty(self._prune), sweep_duty(self._sweep))
        drain = self._settings.limits.drain
        async with (
            endpoints.serving() as url,
            running("outbox", self._outbox.run(), drain=self._deliver_rest),
            running("agents", _for_ever(), drain=self._pool.close),
            running("keeper", keeper.run()),
            running("scheduler", self._scheduler.run(), drain=lambda: self._scheduler.drain(drain)),
            running("chat", self._chat.run(self._receive)),
            running("preparation", self._prepare()),
        ):
            log.info(
                "larkline is up",
                version=__version__,
                url=url,
                isolation=self._isolation.level,
                limit=self._settings.limits.max_concurrent,
                seconds=round(time.monotonic() - self._began, 3),
            )
            yield

    # What happens in between

    async def _receive(self, event: ChatEvent) -> Toast | None:
        began = time.monotonic()
        try:
            return await self._intake.receive(event)
        finally:
            self._metrics.observe_ack(time.monotonic() - began)

    def _wake(self, standing: Standing) -> None:
        if standing is Standing.TURN:
            self._scheduler.wake()
        else:
            self._outbox.wake()

    def _settled(self, claim: Claim, outcome: Outcome, seconds: float) -> None:
        self._metrics.observe_turn(outcome.ending, seconds)
        log.info(
            "turn ended",
            turn=claim.turn.id,
            conversation=claim.turn.conversation,
            ending=outcome.ending,
            seconds=round(seconds, 2),
            detail=outcome.detail,
        )
        self._outbox.wake()

    async def _settle_orphans(self) -> None:
        """Turns that an earlier run left running end as interrupted; their cards say so."""
        for claim in await self._store.orphans():
            outcome = self._runner.broken_off(claim, Ending.INTERRUPTED)
            await self._store.settle(claim, outcome)
            self._metrics.observe_turn(outcome.ending, 0.0)
            log.warning(
                "turn was broken off by a restart",
                turn=claim.turn.id,
                conversation=claim.turn.conversation,
            )

    async def _prepare(self) -> None:
        """Once the platform knows us: judge what waited for that, and load the SDK."""
        await self._chat.identified()
        await self._judge_held()
        await self._maker.prepare()
        await _for_ever()

    async def _judge_held(self) -> None:
        while True:
            try:
                judged = await self._intake.judge_held()
            except StoreError as exc:
                log.warning("can't judge messages that wait yet", error=str(exc))
                await asyncio.sleep(_STORE_PAUSE)
                continue
            if judged:
                log.info("judged messages that waited for the bot's id", messages=judged)
            return

    async def _deliver_rest(self) -> None:
        await self._outbox.drain(_DELIVER_AT_END)

    async def _prune(self) -> Mapping[str, int]:
        now, keep = time.time(), self._settings.retention
        return await self._store.prune(
            Cutoffs(messages=now - keep.messages * _DAY, transcripts=now - keep.transcripts * _DAY)
        )

    async def _sweep(self) -> Mapping[str, int]:
        where = places(self._settings)
        swept = await sweep(self._instance, where.agents, where.resumes, self._maker.live())
        reaped = await asyncio.to_thread(self._orphans.reap)
        return {"processes": swept.processes, "folders": swept.folders, "reaped": reaped}

    # What operators and users are told

    async def _queued(self) -> int:
        return (await self._store.counts()).queued

    async def _status(self, conversation: ConversationId) -> str:
        language = self._settings.language
        counts = await self._store.counts()
        known = await self._store.conversation(conversation)
        since = self._scheduler.running_since(conversation)
        now = time.monotonic()
        here = text(language, "status_idle")
        if since is not None:
            here = text(language, "status_running", elapsed=elapsed(now - since))
        session = known.session if known is not None else None
        return text(
            language,
            "status",
            version=__version__,
            uptime=elapsed(now - self._began),
            conversation=here,
            active=self._pool.counts().total,
            limit=self._settings.limits.max_concurrent,
            running=counts.running,
            queued=counts.queued,
            isolation=self._isolation.level,
            session=session or text(language, "status_no_session"),
        )

    async def _reasons(self) -> dict[str, str]:
        reasons: dict[str, str] = {}
        connection = self._chat.connection()
        if not connection.connected:
            reasons["connection"] = connection.reason or "connecting"
        try:
            await self._store.writable()
        except LarklineError as exc:
            reasons["store"] = str(exc)
        try:
            self._maker.cli()
        except AgentStartError as exc:
            reasons["cli"] = str(exc)
        return reasons

    def _gauges(self) -> None:
        gauge, pool, chat = self._metrics.gauge, self._pool, self._chat
        gauge("larkline_turns_running", "Turns that run now.", lambda: self._scheduler.running)
        gauge("larkline_processes", "Agent processes.", lambda: pool.counts().total)
        gauge("larkline_processes_idle", "Idle agent processes.", lambda: pool.counts().idle)
        gauge("larkline_processes_limit", "Agent processes allowed.", lambda: pool.capacity)
        gauge("larkline_connected", "1: connected.", lambda: chat.connection().connected)
        gauge("larkline_reconnects", "Reconnects so far.", lambda: chat.connection().reconnects)

    async def _metrics_text(self) -> tuple[bytes, str]:
        self._metrics.queued.set((await self._store.counts()).queued)
        return self._metrics.text()


async def _for_ever() -> None:
    await asyncio.Event().wait()
