"""A data directory, a broker and an offline model under real agents."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from larkline.agents.broker import Broker, Upstream
from larkline.agents.claude import AgentSettings, ClaudeMaker, Ground, Home
from larkline.agents.isolation import Isolation
from larkline.agents.probing import probe
from larkline.agents.sweeping import new_instance
from larkline.domain.events import AgentEvent, Ended, TextDelta, TextDone
from larkline.domain.model import ConversationId, SessionId
from larkline.ports import Agent, AgentSpec, Transcripts
from larkline.sim.model import OfflineModel
from larkline.stores.memory import MemoryStore

SECRET = "sk-upstream-secret-that-no-agent-may-see"


@dataclass
class World:
    """Everything a test asks: the maker, the model, the folders."""

    base: Path
    model: OfflineModel
    broker: Broker
    transcripts: Transcripts
    isolation: Isolation
    agents_root: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def home(self, conversation: ConversationId) -> Home:
        return Home(self.base / "workspaces" / conversation, self.base / "homes" / conversation)

    def maker(self, **changes: Any) -> ClaudeMaker:
        async def homes(conversation: ConversationId) -> Home:
            home = self.home(conversation)
            home.workspace.mkdir(parents=True, exist_ok=True)
            return home

        settings = AgentSettings(isolation=self.isolation, **{**self.settings, **changes})
        ground = Ground(new_instance(self.agents_root), self.agents_root, self.base / "resumes")
        return ClaudeMaker(settings, self.transcripts, homes, ground, self.broker)


@asynccontextmanager
async def world(base: Path, transcripts: Transcripts | None = None) -> AsyncIterator[World]:
    """All of it, up and running."""
    base = base.resolve()
    agents_root = base / "agents"
    agents_root.mkdir()
    (base / "resumes").mkdir()
    isolation = await probe("auto", agents_root)
    async with (
        OfflineModel(key=SECRET) as model,
        Broker(Upstream(model.url, api_key=SECRET)) as broker,
    ):
        yield World(base, model, broker, transcripts or MemoryStore(), isolation, agents_root)


def spec(conversation: str = "c0ffee0123456789", resume: SessionId | None = None) -> AgentSpec:
    return AgentSpec(ConversationId(conversation), resume)


async def turn(agent: Agent, prompt: str) -> list[AgentEvent]:
    """All events of one turn."""
    return [event async for event in agent.turn(prompt, str(uuid.uuid4()))]


def said(events: Sequence[AgentEvent]) -> str:
    """The answer as its text blocks tell it."""
    return "\n".join(event.text for event in events if isinstance(event, TextDone))


def drafted(events: Sequence[AgentEvent]) -> str:
    """The answer as its deltas tell it."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def ended(events: Sequence[AgentEvent]) -> Ended:
    """How the turn ended."""
    last = events[-1]
    assert isinstance(last, Ended), events[-3:]
    return last
