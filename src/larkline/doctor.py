"""`larkline doctor`: looks at everything a gateway needs, and says what to do about it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from larkline.agents.claude import bundled_cli
from larkline.agents.isolation import Hole
from larkline.agents.probing import probe
from larkline.chats.feishu.chat import FeishuChat
from larkline.chats.feishu.settings import FeishuSettings
from larkline.config import Settings
from larkline.domain.errors import (
    AgentStartError,
    LarklineError,
    Permanent,
    StoreLocked,
    Transient,
)
from larkline.stores.lock import hold
from larkline.telemetry.logs import configure
from larkline.telemetry.redaction import Redaction
from larkline.texts import text

NEEDED_SCOPES = (
    ("im:message:send_as_bot", "im:message"),
    ("im:message.p2p_msg:readonly", "im:message.p2p_msg"),
    ("im:message.group_at_msg:readonly", "im:message.group_at_msg", "im:message.group_msg"),
    ("cardkit:card:write",),
)
"""Scopes we need; each row is served by any one of its names."""

_CONNECT_SECONDS = 15.0
_CLI_SECONDS = 20.0
_LOW_DISK_BYTES = 1 << 30

State = Literal["ok", "warn", "bad"]
_MARKS = {"ok": "✅", "warn": "⚠️ ", "bad": "❌"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    state: State
    name: str
    detail: str


async def examine(settings: Settings) -> int:
    """Print what was found; 1 if anything would keep the gateway from working, else 0."""
    configure("error", settings.log.format, Redaction(()))  # what is wrong is in the findings
    bad = False
    async for finding in _findings(settings):
        name = text(settings.language, f"doctor.{finding.name}")
        sys.stdout.write(f"{_MARKS[finding.state]} {name}: {finding.detail}\n")
        sys.stdout.flush()
        bad = bad or finding.state == "bad"
    return 1 if bad else 0


async def _findings(settings: Settings) -> AsyncIterator[Finding]:
    yield _app(settings)
    yield _model(settings)
    yield _data_dir(settings)
    yield await _cli(settings)
    yield await _isolation(settings)
    if settings.feishu.app_id and settings.feishu.app_secret.get_secret_value():
        feishu = FeishuSettings(
            settings.feishu.app_id,
            settings.feishu.app_secret.get_secret_value(),
            settings.feishu.domain,
        )
        async with FeishuChat(feishu) as chat:
            yield await _identity(chat)
            yield await _connection(settings, chat)
            yield await _scopes(settings, chat)


def _app(settings: Settings) -> Finding:
    missing = [
        name
        for name, value in (
            ("feishu.app_id", settings.feishu.app_id),
            ("feishu.app_secret", settings.feishu.app_secret.get_secret_value()),
        )
        if not value
    ]
    if missing:
        return Finding("bad", "app", _say(settings, "doctor.missing", keys=", ".join(missing)))
    return Finding("ok", "app", f"{settings.feishu.app_id} · {settings.feishu.domain}")


def _model(settings: Settings) -> Finding:
    env = settings.agent.env
    if "ANTHROPIC_API_KEY" in env or "ANTHROPIC_AUTH_TOKEN" in env:
        base = env.get("ANTHROPIC_BASE_URL")
        return Finding("ok", "model", base.get_secret_value() if base else "api.anthropic.com")
    return Finding("warn", "model", _say(settings, "doctor.no_key"))


def _data_dir(settings: Settings) -> Finding:
    home = settings.home
    try:
        with hold(home), tempfile.TemporaryFile(dir=home) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except StoreLocked as exc:
        return Finding("warn", "data_dir", str(exc))
    except (LarklineError, OSError) as exc:
        return Finding("bad", "data_dir", str(exc))
    free = shutil.disk_usage(home).free
    detail = f"{home} · {free / (1 << 30):.1f} GB {_say(settings, 'doctor.free')}"
    return Finding("warn" if free < _LOW_DISK_BYTES else "ok", "data_dir", detail)


async def _cli(settings: Settings) -> Finding:
    """The CLI's version, asked with a home and an environment of our own."""
    try:
        path = Path(settings.agent.cli_path) if settings.agent.cli_path else bundled_cli()
    except AgentStartError as exc:
        return Finding("bad", "cli", str(exc))
    with tempfile.TemporaryDirectory(prefix="larkline-doctor-") as home:
        environment = {
            "PATH": os.defpath,
            "HOME": home,
            "CLAUDE_CONFIG_DIR": home,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        try:
            process = await asyncio.create_subprocess_exec(
                path, "--version", env=environment, cwd=home,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as exc:
            return Finding("bad", "cli", f"{path}: {exc.strerror}")
        try:
            async with asyncio.timeout(_CLI_SECONDS):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return Finding("bad", "cli", f"{path}: --version: {_CLI_SECONDS:.0f} s")
    version = said.decode(errors="replace").strip()
    if process.returncode != 0 or not version:
        return Finding("bad", "cli", f"{path}: exit code {process.returncode}")
    return Finding("ok", "cli", version)


async def _isolation(settings: Settings) -> Finding:
    with tempfile.TemporaryDirectory(prefix="larkline-doctor-") as scratch:
        found = await probe(settings.agent.isolation, Path(scratch))
    level = _say(settings, f"doctor.level.{found.level}")
    holes = "; ".join(_say(settings, f"doctor.hole.{hole}") for hole in found.holes)
    said = dict.fromkeys(found.refusals)  # every try fails alike where namespaces are forbidden
    refusals = f" ({'; '.join(said)})" if found.level != "full" else ""
    state: State = "ok" if found.level == "full" and Hole.ROOT not in found.holes else "warn"
    if settings.agent.isolation == "full" and found.level != "full":
        state = "bad"
    return Finding(state, "isolation", f"{level}{refusals}" + (f" · {holes}" if holes else ""))


async def _identity(chat: FeishuChat) -> Finding:
    try:
        bot = await chat.api.identity()
    except (Transient, Permanent) as exc:
        return Finding("bad", "bot", str(exc))
    return Finding("ok", "bot", f"{bot.name} · {bot.open_id}")


async def _connection(settings: Settings, chat: FeishuChat) -> Finding:
    """Open the long connection, and close it again. Events meanwhile are not acknowledged."""

    async def refuse(event: object) -> None:
        raise Transient("doctor takes no events; the platform delivers them again")

    connecting = asyncio.create_task(chat.run(refuse))
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            await chat.connected()
    except TimeoutError:
        reason = chat.connection().reason or f"{_CONNECT_SECONDS:.0f} s"
        return Finding("bad", "connection", reason)
    finally:
        connecting.cancel()
        await asyncio.wait([connecting])
    return Finding("ok", "connection", settings.feishu.transport)


async def _scopes(settings: Settings, chat: FeishuChat) -> Finding:
    try:
        granted = {name for name, given in (await chat.api.scopes()).items() if given}
    except (Transient, Permanent) as exc:
        return Finding("warn", "scopes", str(exc))
    missing = [" | ".join(row) for row in NEEDED_SCOPES if not granted.intersection(row)]
    if missing:
        words = _say(settings, "doctor.scopes_missing", scopes=", ".join(missing))
        return Finding("bad", "scopes", words)
    return Finding("ok", "scopes", _say(settings, "doctor.scopes_granted"))


def _say(settings: Settings, key: str, **fields: object) -> str:
    return text(settings.language, key, **fields)
