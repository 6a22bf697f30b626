"""Settings: defaults < TOML < environment `LARKLINE_SECTION__KEY` < flags.

Unknown keys and misspelt environment names are errors that name the nearest right key.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as SourceError

from larkline.domain.errors import SettingsError
from larkline.domain.model import Language

PREFIX = "LARKLINE_"
CONFIG_VARIABLE = "LARKLINE_CONFIG"
DEFAULT_CONFIG = Path("larkline.toml")


def _words(value: object) -> object:
    """Lists in the environment: JSON, or words with commas between."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [word.strip() for word in value.split(",") if word.strip()]


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]


class Section(BaseModel):
    """A table of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class FeishuSection(Section):
    """The Feishu or Lark app."""

    app_id: str = Field("", description="The app's id (`cli_...`).")
    app_secret: SecretStr = Field(SecretStr(""), description="The app's secret.")
    domain: str = Field(
        "https://open.feishu.cn",
        description="`https://open.feishu.cn`, `https://open.larksuite.com`, or any base URL.",
        pattern=r"^https?://[^\s/]+/?$",
    )
    transport: Literal["websocket", "webhook"] = Field(
        "websocket", description="How events arrive: `websocket`; `webhook` is not there yet."
    )
    encrypt_key: SecretStr = Field(SecretStr(""), description="For `webhook`, later.")
    verification_token: SecretStr = Field(SecretStr(""), description="For `webhook`, later.")


class AgentSection(Section):
    """The coding agent."""

    cli_path: str = Field("", description="The Claude Code CLI; empty: the one in the SDK.")
    model: str = Field("", description="The model's name; empty: the CLI's default.")
    permission_mode: Literal[
        "default", "acceptEdits", "plan", "dontAsk", "auto", "bypassPermissions"
    ] = Field("acceptEdits", description="The CLI's permission mode, by the SDK's names.")
    allow: Words = Field((), description="Tools that may run unasked, e.g. `Bash(git status:*)`.")
    deny: Words = Field((), description="Tools that never run; wins over `allow`.")
    isolation: Literal["auto", "full", "tree-only"] = Field(
        "auto",
        description="`full`: each agent sees only its own workspace; `tree-only`: agents are "
        "surely ended but not isolated; `auto`: the best that works here.",
    )
    unsafe_shared: bool = Field(
        False, description="Admit several people although agents are not isolated."
    )
    idle_extra: int = Field(0, ge=0, description="Idle processes kept beyond `max_concurrent`.")
    idle_seconds: float = Field(900, gt=0, description="An idle process is closed after this.")
    start_seconds: float = Field(30, gt=0, description="How long a process may take to start.")
    silence_seconds: float = Field(600, gt=0, description="A turn with no sign of life ends.")
    turn_seconds: float = Field(3600, gt=0, description="A turn ends after this at the latest.")
    stream_silence_seconds: float = Field(
        120, gt=0, description="A model stream without a word is cut after this."
    )
    env: dict[str, SecretStr] = Field(
        {},
        description="Environment for agents; `ANTHROPIC_BASE_URL` with `ANTHROPIC_API_KEY` or "
        "`ANTHROPIC_AUTH_TOKEN` name the model endpoint and stay with larkline.",
    )


class LimitsSection(Section):
    """How much at once."""

    max_concurrent: int = Field(5, ge=1, le=500, description="Turns that run at once.")
    overflow: Literal["queue", "reject"] = Field(
        "queue", description="What happens to a message when all are busy."
    )
    queue_per_conversation: int = Field(20, ge=1, description="Waiting turns a conversation.")
    queue_total: int = Field(500, ge=1, description="Waiting turns in all.")
    drain: float = Field(30, ge=0, description="Seconds that running turns get at shutdown.")


class StoreSection(Section):
    """The database."""

    url: str = Field("", description="Empty: `sqlite:///<data_dir>/larkline.db`.")


class WorkspacesSection(Section):
    """Where agents work."""

    root: str = Field("", description="Empty: `<data_dir>/workspaces`.")


class AdmissionSection(Section):
    """Who may use it."""

    policy: Literal["pairing", "allowlist", "open"] = Field(
        "pairing",
        description="`allowlist`: those named below; `open`: everybody who can reach the bot; "
        "`pairing`: until pairing is there, as `allowlist`.",
    )
    users: Words = Field((), description="open_ids of people.")
    chats: Words = Field((), description="Chats whose members are all admitted.")
    admins: Words = Field((), description="open_ids of administrators.")


class WebSection(Section):
    """HTTP endpoints of a running gateway."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8600, ge=0, le=65535, description="0 picks one and says which.")
    token: SecretStr = Field(
        SecretStr(""), description="Needed to listen elsewhere than on loopback."
    )


class LogSection(Section):
    """Logs on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="From here on.")
    format: Literal["auto", "human", "json"] = Field(
        "auto", description="`auto`: human on a terminal, else JSON."
    )


class RetentionSection(Section):
    """How long things are kept, in days."""

    messages: float = Field(90, gt=0, description="Messages, turns and replies that are done.")
    transcripts: float = Field(90, gt=0, description="Transcripts, from their last entry on.")


class MetricsSection(Section):
    """Prometheus metrics at `/metrics`."""

    enabled: bool = Field(True, description="Whether `/metrics` answers.")


class Settings(BaseSettings):
    """All settings; frozen."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    data_dir: Path = Field(Path("~/.local/share/larkline"), description="All state lives under it.")
    language: Language = Field("zh", description="`zh` or `en`: what users read.")
    profile: Literal["standard", "seed"] = Field(
        "standard", description="`seed`, the founding document to the letter, is not there yet."
    )
    feishu: FeishuSection = FeishuSection()
    agent: AgentSection = AgentSection()
    limits: LimitsSection = LimitsSection()
    store: StoreSection = StoreSection()
    workspaces: WorkspacesSection = WorkspacesSection()
    admission: AdmissionSection = AdmissionSection()
    web: WebSection = WebSection()
    log: LogSection = LogSection()
    retention: RetentionSection = RetentionSection()
    metrics: MetricsSection = MetricsSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands over: it has merged the sources by then."""
        return (init_settings,)

    @property
    def home(self) -> Path:
        """`data_dir`, absolute. Raises: SettingsError."""
        return _absolute("data_dir", self.data_dir)

    @property
    def database(self) -> Path:
        """The SQLite file. Raises: SettingsError for a store that is not there yet."""
        url = self.store.url
        if not url:
            return self.home / "larkline.db"
        scheme, separator, path = url.partition(":///")
        if scheme != "sqlite" or not separator or not path:
            raise SettingsError(f"store.url: only sqlite:///PATH is there yet, not {scheme}:...")
        return _absolute("store.url", Path(path))

    @property
    def workspaces_root(self) -> Path:
        """The folder of all workspaces, absolute. Raises: SettingsError."""
        root = self.workspaces.root
        return _absolute("workspaces.root", Path(root)) if root else self.home / "workspaces"


def _absolute(key: str, path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as exc:
        raise SettingsError(f"{key}: {path}: {exc}") from exc


def load(
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Read all sources. `flags`: nested tables like the TOML's.

    Raises: SettingsError naming the key and the right form.
    """
    environ = os.environ
    path = config or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    table = _read(path) if path else (_read(DEFAULT_CONFIG) if DEFAULT_CONFIG.exists() else {})
    _check_keys(table, "the settings file")
    _check_environment(environ)
    try:
        variables = EnvSettingsSource(Settings)()
    except (SourceError, ValueError) as exc:
        raise SettingsError(f"environment: {exc}; tables and lists are written as JSON") from None
    try:
        settings = Settings(**_merged(table, variables, flags or {}))
    except ValidationError as exc:
        raise SettingsError(_explain(exc)) from None
    _check_offline(settings)
    return settings


def keys() -> Iterator[tuple[str, Any]]:
    """Every key as `section.key` with its pydantic field, in the order of the documentation."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for key, inner in section.model_fields.items():
                yield f"{name}.{key}", inner
        else:
            yield name, field


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise SettingsError(f"settings file {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"settings file {path} is not valid TOML: {exc}") from exc


def _merged(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables laid over each other; the later one wins, key by key."""
    merged: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            below = merged.get(key)
            if isinstance(below, Mapping) and isinstance(value, Mapping):
                merged[key] = _merged(below, value)
            else:
                merged[key] = value
    return merged


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _check_keys(table: Mapping[str, Any], where: str) -> None:
    known = [name for name, _ in keys()]
    sections = {name.split(".")[0] for name in known if "." in name}
    for name, value in table.items():
        if name in sections:
            if not isinstance(value, Mapping):
                raise SettingsError(f"{name} in {where} is a table: write [{name}]")
            for key in value:
                if f"{name}.{key}" not in known:
                    hint = _nearest(f"{name}.{key}", known)
                    raise SettingsError(f"unknown key {name}.{key} in {where}{hint}")
        elif name not in known:
            hint = _nearest(name, [*known, *sections])
            raise SettingsError(f"unknown key {name} in {where}{hint}")


def _check_environment(environ: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper().replace(".", "__") for name, _ in keys()}
    for name in environ:
        if not name.upper().startswith(PREFIX) or name == CONFIG_VARIABLE:
            continue
        if name.upper() not in known:
            raise SettingsError(f"unknown variable {name}{_nearest(name.upper(), sorted(known))}")


def _explain(exc: ValidationError) -> str:
    """The first error, by key, without the value (it may be a secret)."""
    error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in error["loc"])
    more = f" (and {exc.error_count() - 1} more)" if exc.error_count() > 1 else ""
    return f"{where}: {error['msg']}{more}"


def _check_offline(settings: Settings) -> None:
    if settings.feishu.transport == "webhook":
        raise SettingsError("feishu.transport: webhook is not there yet; use websocket")
    if settings.profile == "seed":
        raise SettingsError("profile: seed is not there yet; use standard")
    loopback = settings.web.host in ("127.0.0.1", "::1", "localhost")
    if not loopback and not settings.web.token.get_secret_value():
        raise SettingsError("web.token: set one to listen elsewhere than on 127.0.0.1")
    env = settings.agent.env
    if "ANTHROPIC_API_KEY" in env and "ANTHROPIC_AUTH_TOKEN" in env:
        raise SettingsError("agent.env: set ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN, not both")
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value.get_secret_value():
            raise SettingsError(f"agent.env: {name!r} can't be an environment variable")
    settings.workspaces_root  # noqa: B018 - says what is wrong with it
    folder = settings.database.parent
    if not folder.is_dir() and not folder.is_relative_to(settings.home):
        raise SettingsError(f"store.url: there is no folder {folder}")
    if settings.database.is_dir():
        raise SettingsError(f"store.url: {settings.database} is a folder, not a file")
