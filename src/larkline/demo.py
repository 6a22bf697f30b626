"""`larkline demo`: the whole way without an account, on this machine's loopback.

The platform and the model are simulated in this process; the gateway is the installed command as
a process of its own, and the agent in it is the real CLI.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from larkline.domain.errors import LarklineError, SettingsError
from larkline.domain.model import Language
from larkline.texts import text

try:
    from larkline.sim.model import OfflineModel
    from larkline.sim.platform import Platform
except ModuleNotFoundError as exc:  # pragma: no cover - depends on how it was installed
    raise SettingsError(f"the demo needs the extra `sim` ({exc.name} is missing)") from exc

_READY_SECONDS = 60.0
_ANSWER_SECONDS = 120.0
_END_SECONDS = 60.0
_DELTAS_PER_SECOND = 60.0
_LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """`once`: end after the exchange. `key`: a real model's key; '' for the offline model."""

    once: bool
    port: int
    key: str = field(default="", repr=False)


async def play(settings: DemoSettings) -> int:
    """Start everything, play the exchange; 0 if every answer arrived."""
    language: Language = "zh" if os.environ.get("LANG", "").startswith("zh") else "en"
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    data_dir = Path(tempfile.mkdtemp(prefix="larkline-demo-"))
    try:
        return await _play(settings, language, data_dir, stop)
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


async def _play(
    settings: DemoSettings, language: Language, data_dir: Path, stop: asyncio.Event
) -> int:
    began = time.monotonic()
    _say(text(language, "demo.starting"))
    async with AsyncExitStack() as stack:
        platform = await stack.enter_async_context(_listening(settings.port))
        if settings.key:
            _say(text(language, "demo.real_model"))
            model = {"ANTHROPIC_API_KEY": settings.key}
        else:
            offline = await stack.enter_async_context(OfflineModel(rate=_DELTAS_PER_SECOND))
            model = {"ANTHROPIC_BASE_URL": offline.url, "ANTHROPIC_API_KEY": "offline-demo-key"}
        gateway = await _start_gateway(platform, model, language, data_dir)
        stack.push_async_callback(_end_gateway, gateway)
        try:
            await _unless(stop, _connected(platform, gateway))
            ready = time.monotonic() - began
            _say(text(language, "demo.ready", seconds=ready, data_dir=data_dir))
            for prompt in ("demo.first_prompt", "demo.second_prompt"):
                await _unless(stop, _exchange(platform, language, text(language, prompt)))
        except _StoppedError:
            return 1
        except (TimeoutError, LarklineError):
            _say(text(language, "demo.no_answer"))
            for line in (data_dir / "gateway.log").read_text().splitlines()[-_LOG_LINES:]:
                _say(f"  {line}")
            return 1
        if not settings.once:
            _say("\n" + text(language, "demo.open", url=platform.url))
            await stop.wait()
    _say(text(language, "demo.ended"))
    return 0


class _StoppedError(Exception):
    """Ctrl-C in the middle."""


async def _unless(stop: asyncio.Event, work: Coroutine[object, object, None]) -> None:
    """Do the work, but give up when `stop` is set. Raises: _StoppedError."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    either: set[asyncio.Future[Any]] = {working, stopping}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    for task in either:
        task.cancel()
    await asyncio.wait(either)
    if working.cancelled():
        raise _StoppedError
    working.result()


def _listening(port: int) -> Platform:
    return Platform(port=port)


async def _start_gateway(
    platform: Platform, model: dict[str, str], language: Language, data_dir: Path
) -> asyncio.subprocess.Process:
    """The installed command with an environment of ours; its log goes to a file."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "HOME": str(data_dir),
        "LARKLINE_DATA_DIR": str(data_dir / "larkline"),
        "LARKLINE_LANGUAGE": language,
        "LARKLINE_FEISHU__APP_ID": platform.app.app_id,
        "LARKLINE_FEISHU__APP_SECRET": platform.app.secret,
        "LARKLINE_FEISHU__DOMAIN": platform.domain,
        "LARKLINE_ADMISSION__POLICY": "open",
        # The demo's users are all you: agents may share this machine's view where they must.
        "LARKLINE_AGENT__UNSAFE_SHARED": "true",
        "LARKLINE_AGENT__ENV": json.dumps(model),
        "LARKLINE_WEB__PORT": "0",
    }
    with (data_dir / "gateway.log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "larkline", "run",
            env=environment, cwd=data_dir, stdin=asyncio.subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip


async def _connected(platform: Platform, gateway: asyncio.subprocess.Process) -> None:
    waiting = asyncio.create_task(platform.connected(seconds=_READY_SECONDS))
    ended = asyncio.create_task(gateway.wait())
    done, _ = await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, ended):
        task.cancel()
    if ended in done:
        raise LarklineError(f"the gateway ended with exit code {gateway.returncode}")
    await waiting


async def _exchange(platform: Platform, language: Language, prompt: str) -> None:
    """One message and its answer, shown as it grows, with what each step took."""
    user = platform.users[0]
    chat = platform.p2p(user)
    before = len(platform.replies(chat))
    sent = platform.people.send(user, prompt)
    began = sent.message.created
    _say(f"\n👤 {user.name}: {prompt}")
    await platform.until(lambda: len(platform.replies(chat)) > before, _ANSWER_SECONDS)
    reply = platform.replies(chat)[before]
    card = platform.card(reply)
    if card is None:
        raise LarklineError("the answer is no card")
    await platform.until(lambda: not card.streaming, _ANSWER_SECONDS)
    _say("🤖 " + platform.text(reply).replace("\n", "\n   "))
    pushes = [push for d in platform.deliveries_of(sent.message) for push in d.pushes]
    acked = next((push.acked_at for push in pushes if push.acked_at is not None), began)
    # A card without an answer yet shows an ellipsis in its first line.
    spoken = (r.at for r in card.revisions if r.text.partition("\n")[0].strip(" …"))
    first = next(spoken, reply.created)
    _say(
        text(
            language,
            "demo.timings",
            ack=(acked - began) * 1000,
            card=(reply.created - began) * 1000,
            first=(first - began) * 1000,
            whole=(card.revisions[-1].at - began) * 1000,
        )
    )


async def _end_gateway(gateway: asyncio.subprocess.Process) -> None:
    if gateway.returncode is None:
        gateway.terminate()
    try:
        await asyncio.wait_for(gateway.wait(), _END_SECONDS)
    except TimeoutError:
        gateway.kill()
        await gateway.wait()


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()
