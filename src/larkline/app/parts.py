"""From settings to the parts of a gateway. Wrong settings are SettingsErrors that name the key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from larkline.agents.broker import Broker
from larkline.agents.claude import AgentSettings, ClaudeMaker, Ground, Home
from larkline.agents.isolation import Isolation
from larkline.agents.sweeping import Instance
from larkline.agents.upstream import Upstream
from larkline.agents.workspace import WorkspaceError, Workspaces
from larkline.chats.feishu.settings import FeishuSettings
from larkline.config import Settings
from larkline.domain.errors import AgentStartError, SettingsError, StartFault
from larkline.domain.model import ConversationId
from larkline.policy.admission import Admission
from larkline.ports import Store
from larkline.web.endpoints import WebSettings

ANTHROPIC = "https://api.anthropic.com"
_UPSTREAM = ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


@dataclass(frozen=True, slots=True)
class Places:
    """Folders under `data_dir`, without links in their paths."""

    agents: Path
    configs: Path
    resumes: Path
    workspaces: Path
    database: Path
    """The folder of the database file."""


def places(settings: Settings) -> Places:
    """Where things lie."""
    home = Path(os.path.realpath(settings.home))
    workspaces = Path(os.path.realpath(settings.workspaces_root))
    database = settings.database.parent
    return Places(home / "agents", home / "configs", home / "resumes", workspaces, database)


def secrets(settings: Settings) -> list[str]:
    """Every secret in the settings: what no log line may show."""
    feishu = settings.feishu
    known = [feishu.app_secret, feishu.encrypt_key, feishu.verification_token, settings.web.token]
    known += [
        value
        for name, value in settings.agent.env.items()
        if any(word in name.upper() for word in _SECRET_WORDS)
    ]
    return [each.get_secret_value() for each in known]


def check_app(settings: Settings) -> None:
    """Raises: SettingsError without an app to run."""
    if not settings.feishu.app_id:
        raise SettingsError("feishu.app_id: set it to your app's id (cli_...)")
    if not settings.feishu.app_secret.get_secret_value():
        raise SettingsError("feishu.app_secret: set it, best as LARKLINE_FEISHU__APP_SECRET")


def make_folders(where: Places) -> None:
    """Make them. Raises: SettingsError."""
    for key, folder in (
        ("data_dir", where.agents),
        ("data_dir", where.configs),
        ("data_dir", where.resumes),
        ("workspaces.root", where.workspaces),
        ("store.url", where.database),
    ):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise SettingsError(f"{key}: can't make {folder}: {exc.strerror}") from exc


def feishu_settings(settings: Settings) -> FeishuSettings:
    """The app on Feishu or Lark."""
    feishu = settings.feishu
    return FeishuSettings(feishu.app_id, feishu.app_secret.get_secret_value(), feishu.domain)


def web_settings(settings: Settings) -> WebSettings:
    """Where the endpoints listen."""
    web = settings.web
    return WebSettings(web.host, web.port, web.token.get_secret_value())


def upstream(settings: Settings) -> Upstream | None:
    """The model endpoint that the broker speaks to; None: agents log in by `agent.env`."""
    env = settings.agent.env
    key, token = env.get("ANTHROPIC_API_KEY"), env.get("ANTHROPIC_AUTH_TOKEN")
    if key is None and token is None:
        return None
    base = env.get("ANTHROPIC_BASE_URL")
    try:
        return Upstream(
            base.get_secret_value() if base else ANTHROPIC,
            api_key=key.get_secret_value() if key else None,
            auth_token=token.get_secret_value() if token else None,
        )
    except ValueError as exc:
        raise SettingsError(f"agent.env: ANTHROPIC_BASE_URL: {exc}") from exc


def admission(settings: Settings, isolation: Isolation) -> Admission:
    """Who is admitted. Raises: SettingsError where that or the permission mode needs isolation."""
    chosen = settings.admission
    admission = Admission(
        chosen.policy,
        frozenset(chosen.users),
        frozenset(chosen.chats),
        frozenset(chosen.admins),
    )
    shared = isolation.level != "full" and not settings.agent.unsafe_shared
    if shared and admission.more_than_one_person:
        raise SettingsError(
            f"admission: agents can't be isolated here (level {isolation.level}), so only one "
            "person may be admitted; larkline doctor says why. Admit one, or accept that agents "
            "see each other's files with agent.unsafe_shared = true"
        )
    if shared and settings.agent.permission_mode == "bypassPermissions":
        raise SettingsError(
            f"agent.permission_mode: agents can't be isolated here (level {isolation.level}), so "
            "bypassPermissions would let them do all that larkline's user may; choose another, or "
            "accept that with agent.unsafe_shared = true"
        )
    return admission


def agent_maker(
    settings: Settings,
    where: Places,
    isolation: Isolation,
    instance: Instance,
    store: Store,
    broker: Broker | None,
) -> ClaudeMaker:
    """The maker of real agents, with workspaces and config folders of their own."""
    agent = settings.agent
    held_back = () if broker is None else _UPSTREAM
    env = {k: v.get_secret_value() for k, v in agent.env.items() if k not in held_back}
    if isolation.level == "full" and agent.permission_mode == "bypassPermissions":
        env.setdefault("IS_SANDBOX", "1")  # the CLI refuses to bypass as root otherwise
    chosen = AgentSettings(
        isolation=isolation,
        cli_path=Path(os.path.realpath(agent.cli_path)) if agent.cli_path else None,
        model=agent.model,
        permission_mode=agent.permission_mode,
        allow=agent.allow,
        deny=agent.deny,
        env=env,
        start_seconds=agent.start_seconds,
    )

    workspaces = Workspaces.at(where.workspaces)

    async def homes(conversation: ConversationId) -> Home:
        try:
            workspace = await workspaces.open(conversation)
        except WorkspaceError as exc:
            raise AgentStartError(StartFault.NO_WORKSPACE, str(exc)) from exc
        return Home(workspace, where.configs / conversation)

    ground = Ground(instance, where.agents, where.resumes)
    return ClaudeMaker(chosen, store, homes, ground, broker)
