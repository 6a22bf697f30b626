"""The installed command as a process, between a simulated platform and an offline model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

from larkline.sim.model import OfflineModel
from larkline.sim.platform import Platform
from larkline.sim.world import Chat, Message, User

KEY = "sk-upstream-key-that-nobody-may-see"
READY_SECONDS = 40.0
MARKER = b"LARKLINE_AGENT="


@dataclass
class Gateway:
    """One data directory, and the process over it; `start` and `stop` may follow each other."""

    platform: Platform
    model: OfflineModel
    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    url: str = ""
    log_from: int = 0
    own_session: bool = False
    """As a service has it: kernels with autogroup share the CPU between sessions."""

    @property
    def data_dir(self) -> Path:
        return self.home / "data"

    @property
    def log_path(self) -> Path:
        return self.home / "gateway.log"

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.home),
            "LARKLINE_DATA_DIR": str(self.data_dir),
            "LARKLINE_LANGUAGE": "en",
            "LARKLINE_FEISHU__APP_ID": self.platform.app.app_id,
            "LARKLINE_FEISHU__APP_SECRET": self.platform.app.secret,
            "LARKLINE_FEISHU__DOMAIN": self.platform.domain,
            "LARKLINE_ADMISSION__POLICY": "open",
            "LARKLINE_AGENT__ENV": json.dumps(
                {"ANTHROPIC_BASE_URL": self.model.url, "ANTHROPIC_API_KEY": KEY}
            ),
            "LARKLINE_WEB__PORT": "0",
            **self.settings,
        }

    async def spawn(self, *arguments: str) -> asyncio.subprocess.Process:
        """`larkline ARGUMENTS` with our environment; its stderr is added to the log."""
        with self.log_path.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "larkline", *arguments,
                env=self.environment(), cwd=self.home, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=self.own_session,
            )  # fmt: skip

    async def start(self) -> Self:
        """Run the gateway until it is ready."""
        self.process = await self.spawn("run")
        await self.until_logged("larkline is up", since=self.log_from)
        async with asyncio.timeout(READY_SECONDS):
            while (await self.get("/readyz"))[0] != 200:
                await asyncio.sleep(0.02)
        return self

    async def until_logged(self, event: str, since: int = 0) -> dict[str, Any]:
        """The first log line of that event; the process must live."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                for line in self.lines()[since:]:
                    if line.get("event") == event:
                        self.url = str(line.get("url", self.url))
                        return line
                if self.process is not None and self.process.returncode is not None:
                    raise AssertionError(self.log_path.read_text()[-4000:])
                await asyncio.sleep(0.02)

    def lines(self) -> list[dict[str, Any]]:
        """All log lines; what is no JSON comes as the event."""
        found = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"event": line})
        return found

    async def get(self, path: str) -> tuple[int, str]:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(self.url + path) as answer,
            ):
                return answer.status, await answer.text()
        except aiohttp.ClientError as exc:
            return 0, str(exc)

    async def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60.0) -> int:
        """End the process; its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(seconds):
            code = await self.process.wait()
        self.log_from = len(self.lines())
        self.process = None
        return code

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            await self.stop(signal.SIGKILL)
        await until(lambda: not self.agents(), 10)

    # As a user of it

    async def answer(
        self, user: User, text: str, *, chat: Chat | None = None, seconds: float = 40.0, **more: Any
    ) -> tuple[Message, str]:
        """Send a message, wait for its settled card or text; the message and what it shows."""
        sent = self.platform.people.send(user, text, chat=chat, **more)
        return await self.reply_to(sent.message, seconds)

    async def reply_to(self, message: Message, seconds: float = 40.0) -> tuple[Message, str]:
        """The settled reply to a message."""
        await self.platform.until(lambda: self._settled(message) is not None, seconds)
        reply = self._settled(message)
        assert reply is not None
        return reply, self.platform.text(reply)

    async def until_shown(
        self, message: Message, words: str, *, settled: bool = False, seconds: float = 40.0
    ) -> Message:
        """Wait until an answer to a message shows these words; `settled`: and streams no more."""

        def found() -> Message | None:
            for reply in self.shown(message):
                card = self.platform.card(reply)
                live = card is not None and card.streaming
                if words in self.platform.text(reply) and not (settled and live):
                    return reply
            return None

        await self.platform.until(lambda: found() is not None, seconds)
        reply = found()
        assert reply is not None
        return reply

    def shown(self, message: Message) -> list[Message]:
        """Everything the bot answered to a message."""
        world = self.platform.world
        return [
            each
            for each in world.in_chat(message.chat_id)
            if each.sender_kind == "app" and each.parent_id == message.message_id
        ]

    def _settled(self, message: Message) -> Message | None:
        for reply in self.shown(message):
            card = self.platform.card(reply)
            position = card is None and "⏳" in self.platform.text(reply)
            if not position and (card is None or (card.revisions and not card.streaming)):
                return reply
        return None

    # As the kernel sees it

    def agents(self) -> set[int]:
        """Processes of agents of this data directory, guards included, zombies not."""
        return {pid for pid in _pids() if self._is_ours(pid)}

    def clis(self) -> set[int]:
        """The agents' CLI processes alone: what a CLI forks looks like it for a moment."""
        found = {pid for pid in self.agents() if _program(pid) == "claude"}
        return {pid for pid in found if _parent(pid) not in found}

    def _is_ours(self, pid: int) -> bool:
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        mine = str(self.data_dir).encode() in environ
        return MARKER in environ and mine and state != "Z"


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a state of the kernel or a file, looking often."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
