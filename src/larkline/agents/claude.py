"""Agents that are real Claude Code processes, each behind its guard and on the broker's leash."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, cast

from larkline.agents.broker import Broker
from larkline.agents.isolation import Isolation
from larkline.agents.launcher import Launch, Limits, runnable
from larkline.agents.permissions import Rules, parse_rule
from larkline.agents.sweeping import Instance
from larkline.domain.errors import AgentStartError, StartFault
from larkline.domain.model import ConversationId, SessionId
from larkline.ports import AgentSpec, Transcripts

if TYPE_CHECKING:
    from larkline.agents import claude_session
    from larkline.agents.claude_session import ClaudeAgent

PermissionMode = Literal["default", "acceptEdits", "plan", "dontAsk", "auto", "bypassPermissions"]
SettingSource = Literal["user", "project", "local"]

_ALWAYS = {
    "TERM": "dumb",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    # What outlives a turn would report to nobody: subagents and commands run inside it.
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_CRON": "1",
}
_OURS = ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How agents are run. `cli_path` None: the CLI inside the SDK; `model` '': the CLI's default.

    `allow` and `deny` are tool rules in the CLI's syntax. `env` reaches the agents, so it holds no
    secret, and without a broker it is what the agents log in with. `setting_sources` names which
    settings files of the CLI count; none by default.
    """

    isolation: Isolation
    cli_path: Path | None = None
    model: str = ""
    permission_mode: PermissionMode = "acceptEdits"
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    setting_sources: tuple[SettingSource, ...] = ()
    limits: Limits = field(default_factory=Limits)
    start_seconds: float = 30.0
    line_bytes: int = 32 << 20
    """The longest line of the CLI; an answer comes as one line, more than once as long."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a conversation's agents live: absolute paths, free of links, the conversation's own."""

    workspace: Path
    config: Path


Homes = Callable[[ConversationId], Awaitable[Home]]
"""Makes what a conversation's agents need on disk; repeatable. Raises: AgentStartError."""


@dataclass(frozen=True, slots=True)
class Ground:
    """Where the agents of this run live: `instance` names the run, the folders are larkline's."""

    instance: Instance
    agents_root: Path
    resume_root: Path
    hidden: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """One agent to be started, everything decided."""

    launch: Launch
    conversation: ConversationId
    session: SessionId
    resumes: bool
    settings: AgentSettings
    rules: Rules
    token: str | None


class ClaudeMaker:
    """The `AgentMaker` of real agents. `broker` None: agents reach the model by `settings.env`.

    Raises: SettingsError for a rule that is none.
    """

    def __init__(
        self,
        settings: AgentSettings,
        transcripts: Transcripts,
        homes: Homes,
        ground: Ground,
        broker: Broker | None,
    ) -> None:
        self._settings = settings
        self._transcripts = transcripts
        self._homes = homes
        self._ground = ground
        self._broker = broker
        self._allow = tuple(parse_rule(each) for each in settings.allow)
        self._deny = tuple(parse_rule(each) for each in settings.deny)
        self._live: set[str] = set()
        self._loading = asyncio.Lock()
        self._sessions: type[claude_session.ClaudeAgent] | None = None

    def live(self) -> frozenset[str]:
        """The folders' names of agents that are being started, run, or are being ended."""
        return frozenset(self._live)

    def cli(self) -> Path:
        """The CLI that agents run. Raises: AgentStartError if there is none that can be run."""
        cli = self._settings.cli_path or bundled_cli()
        if not runnable(cli):
            raise AgentStartError(StartFault.NO_CLI, f"no Claude Code at {cli}: set agent.cli_path")
        return cli

    async def prepare(self) -> None:
        """Load the SDK, in a thread (0.5-0.9 s, 69 MB); repeatable. `start` does it otherwise."""
        await self._load()

    async def start(self, spec: AgentSpec) -> ClaudeAgent:
        """See `AgentMaker`."""
        agent_class = await self._load()
        cli = self.cli()
        home = await self._homes(spec.conversation)
        name = f"{spec.conversation}-{secrets.token_hex(4)}"
        token = self._broker.admit(name) if self._broker is not None else None
        order = self._order(spec, home, cli, name, token)
        self._live.add(name)
        agent = agent_class(
            order, self._transcripts, self._broker, lambda: self._live.discard(name)
        )
        try:
            await agent.open()
        except BaseException:
            self._live.discard(name)  # if anything should be left of it, it is the sweep's
            raise
        return agent

    async def _load(self) -> type[ClaudeAgent]:
        async with self._loading:
            if self._sessions is None:
                name = "larkline.agents.claude_session"
                module = await asyncio.to_thread(importlib.import_module, name)
                self._sessions = cast("type[ClaudeAgent]", module.ClaudeAgent)
            return self._sessions

    def _order(self, spec: AgentSpec, home: Home, cli: Path, name: str, token: str | None) -> Order:
        settings, ground = self._settings, self._ground
        launch = Launch(
            marker=ground.instance.marker(name),
            agent_dir=ground.agents_root / name,
            workspace=home.workspace,
            config_dir=home.config,
            resume_root=ground.resume_root,
            cli_path=cli,
            isolation=settings.isolation,
            env=self._environment(token),
            hidden=ground.hidden,
            limits=settings.limits,
        )
        rules = Rules(
            workspace=str(home.workspace),
            allow=self._allow,
            deny=self._deny,
            accept_edits=settings.permission_mode == "acceptEdits",
        )
        return Order(
            launch=launch,
            conversation=spec.conversation,
            session=spec.resume or SessionId(str(uuid.uuid4())),
            resumes=spec.resume is not None,
            settings=settings,
            rules=rules,
            token=token,
        )

    def _environment(self, token: str | None) -> dict[str, str]:
        env = {**_ALWAYS, **self._settings.env}
        if zone := os.environ.get("TZ"):
            env.setdefault("TZ", zone)
        if self._broker is None or token is None:
            return env
        for name in _OURS:
            env.pop(name, None)
        if any(name.lower() in ("http_proxy", "all_proxy") for name in env):
            for name in ("NO_PROXY", "no_proxy"):  # the broker is here, and speaks plain HTTP
                env[name] = ",".join(filter(None, (env.get(name), "127.0.0.1")))
        return {**env, "ANTHROPIC_BASE_URL": self._broker.url, "ANTHROPIC_API_KEY": token}


def bundled_cli() -> Path:
    """The CLI that comes with the SDK, found without loading it. Raises: AgentStartError."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "_bundled" / "claude"
        if path.is_file():
            return path
    raise AgentStartError(
        StartFault.NO_CLI, "claude-agent-sdk brings no Claude Code here: set agent.cli_path"
    )
