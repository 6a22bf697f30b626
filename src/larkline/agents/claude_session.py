"""One Claude Code process and its session, through the SDK.

Importing this module loads the SDK (0.5-0.9 s, 69 MB): only `ClaudeMaker` does, in a thread.

One task owns the SDK's client: it connects, reads to the end, disconnects and ends the process
tree, in this order and whatever happens. Others only write a line to it (`turn`, `interrupt`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    ClaudeSDKError,
    MirrorErrorMessage,
    PermissionResultAllow,
    PermissionResultDeny,
    ProcessError,
    ResultMessage,
    project_key_for_directory,
)
from claude_agent_sdk._errors import MessageParseError

from larkline.agents.about import about
from larkline.agents.account import TurnReport
from larkline.agents.buffer import EventBuffer
from larkline.agents.claude_start import options, start_error
from larkline.agents.ending import end_tree, read_record
from larkline.agents.permissions import decide
from larkline.agents.removal import remove_folder
from larkline.agents.transcripts import Mirror, lay_out, mend
from larkline.agents.translation import Reading, read
from larkline.domain.errors import AgentDiedError, AgentStartError, StartFault, StoreError
from larkline.domain.events import AgentEvent, Denied, Ended, Started
from larkline.domain.model import SessionId, Usage
from larkline.lifecycle import to_the_end
from larkline.ports import ModelFailure, Transcripts

if TYPE_CHECKING:
    from claude_agent_sdk import Message, PermissionResult, ToolPermissionContext

    from larkline.agents.broker import Broker
    from larkline.agents.claude import Order

_log = logging.getLogger(__name__)
# The SDK's own log shows pieces of what the agent said; what it reports comes to us as messages.
logging.getLogger("claude_agent_sdk").setLevel(logging.CRITICAL + 1)

SAY_SECONDS = 30.0
INTERRUPT_SECONDS = 5.0
FAREWELL_SECONDS = 2.0
"""At closing: how long a busy agent may take to report the end of its turn."""
DISCONNECT_SECONDS = 2.0
SETTLE_SECONDS = 3.0
REMOVE_SECONDS = 0.5
_STDERR_LINES = 50


class ClaudeAgent:
    """See `larkline.ports.Agent`. `on_gone` is called once nothing of it is left."""

    def __init__(
        self,
        order: Order,
        transcripts: Transcripts,
        broker: Broker | None,
        on_gone: Callable[[], None],
    ) -> None:
        self._order = order
        self._launch = order.launch
        self._transcripts = transcripts
        self._broker = broker
        self._on_gone = on_gone
        self._mirror = Mirror(transcripts, project=order.conversation, readable=False)
        self._client: ClaudeSDKClient | None = None
        self._owner: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._up = False
        self._pid: int | None = None
        self._buffer: EventBuffer | None = None
        self._reading: Reading | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._stop_wanted = False
        self._spoiled = False
        self._gone = False
        self._unanswered: float | None = None  # since when an interrupt is
        self._exit_code: int | None = None
        self._cost = 0.0
        self._last: Usage = Usage()
        self._report: TurnReport | None = None
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)

    @property
    def session(self) -> SessionId:
        """See `Agent`."""
        return self._order.session

    @property
    def alive(self) -> bool:
        """See `Agent`."""
        return self._up and not self._spoiled and self._closing is None

    @property
    def pid(self) -> int | None:
        """See `Agent`: the guard's."""
        return self._pid

    # Start

    async def open(self) -> None:
        """Start the process; on return it takes turns. A failure leaves nothing behind.

        Raises: AgentStartError.
        """
        owner = self._owner = asyncio.create_task(self._own(), name=f"agent {self._launch.marker}")
        connected = asyncio.create_task(self._connected.wait(), name="agent connects")
        try:
            await asyncio.wait(
                {owner, connected},
                timeout=self._order.settings.start_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not (self._connected.is_set() or owner.done()):
                seconds = self._order.settings.start_seconds
                raise AgentStartError(StartFault.TIMED_OUT, f"no answer within {seconds:g} s")
        except BaseException:
            await self.close()
            raise
        finally:
            connected.cancel()
        if not self._connected.is_set():
            await owner  # says why

    async def _own(self) -> None:
        """The whole life of the process."""
        client = None
        try:
            client = self._client = ClaudeSDKClient(await self._prepared())
            await self._connect(client)
            await self._read_all(client)
        finally:
            self._up = False
            self._end_turn()
            await self._wind_up(client)

    async def _prepared(self) -> ClaudeAgentOptions:
        launch, order = self._launch, self._order
        wrapper = await to_the_end(asyncio.to_thread(launch.cli_wrapper))
        await asyncio.to_thread(mend, launch.config_dir)
        if order.resumes:
            key = project_key_for_directory(launch.workspace)
            try:
                await lay_out(
                    self._transcripts, order.conversation, order.session, launch.config_dir, key
                )
            except (StoreError, OSError) as exc:
                raise AgentStartError(
                    StartFault.EXITED, f"the transcript of {order.session} cannot be laid out"
                ) from exc
        return options(order, wrapper, self._mirror, self._may_use, self._hear)

    async def _connect(self, client: ClaudeSDKClient) -> None:
        try:
            await client.connect()
        except Exception as exc:
            raise start_error(exc, self._order, self._stderr) from exc
        record = read_record(self._launch.agent_dir)
        self._pid = record.pid if record is not None else None
        self._up = True
        self._connected.set()

    # Turns

    async def turn(self, prompt: str, prompt_uuid: str) -> AsyncGenerator[AgentEvent, None]:
        """See `Agent`."""
        client = self._client
        if self._buffer is not None:
            raise RuntimeError("the agent is in a turn")
        if not self.alive or client is None:
            raise AgentDiedError("the agent is not there", exit_code=self._exit_code)
        buffer = self._buffer = EventBuffer()
        self._reading = Reading(prompt_uuid, str(self._launch.workspace), cost_before=self._cost)
        self._stop_wanted = False
        self._idle.clear()
        self._last, self._report = Usage(), None
        if self._broker is not None and self._order.token is not None:
            self._broker.new_turn(self._order.token)
        whole = False
        try:
            await self._say(client, prompt, prompt_uuid)
            while (event := await buffer.get()) is not None:
                if isinstance(event, Ended):
                    whole = True
                    self._buffer = None
                yield event
        finally:
            if not whole:
                self._spoiled = True
                self._buffer = None
                buffer.end()

    def usage(self) -> Usage:
        """See `Agent`."""
        report = self._turn_report()
        if report is None:
            return self._last
        return replace(report.usage, cost_usd=self._last.cost_usd)

    def last_failure(self) -> ModelFailure | None:
        """See `Agent`."""
        report = self._turn_report()
        return report.failure if report is not None else None

    async def interrupt(self) -> None:
        """See `Agent`."""
        if self._buffer is None or not self._up or self._client is None:
            return
        self._stop_wanted = True
        await self._ask_to_stop(self._client)

    async def _say(self, client: ClaudeSDKClient, prompt: str, prompt_uuid: str) -> None:
        async def messages() -> AsyncIterator[dict[str, Any]]:
            yield {
                "type": "user",
                "message": {"role": "user", "content": prompt},
                "parent_tool_use_id": None,
                "uuid": prompt_uuid,
            }

        try:
            async with asyncio.timeout(SAY_SECONDS):
                await client.query(messages())
        except (TimeoutError, ClaudeSDKError) as exc:
            raise AgentDiedError(
                "the agent does not take the prompt", exit_code=self._exit_code
            ) from exc

    async def _ask_to_stop(self, client: ClaudeSDKClient) -> None:
        if self._unanswered is None:
            self._unanswered = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(INTERRUPT_SECONDS):
                await client.interrupt()
            self._unanswered = None
        except TimeoutError:
            _log.warning("agent %s does not react to an interrupt", self._launch.marker)
        except Exception as exc:  # the SDK raises plain Exception where the process refuses
            _log.info("agent %s was not interrupted: %s", self._launch.marker, type(exc).__name__)
            self._unanswered = None

    async def _read_all(self, client: ClaudeSDKClient) -> None:
        """Read until the process ends, between turns too."""
        while True:
            try:
                async for message in client.receive_messages():
                    await self._take(client, message)
                return
            except MessageParseError as exc:
                # One frame that this SDK does not know; the stream behind it goes on.
                _log.warning("agent %s: unknown frame: %s", self._launch.marker, exc.args[0])
            except ProcessError as exc:
                self._exit_code = exc.exit_code
                return
            except ClaudeSDKError as exc:
                _log.warning("agent %s: %s", self._launch.marker, type(exc).__name__)
                return

    async def _take(self, client: ClaudeSDKClient, message: Message) -> None:
        if self._reading is not None:
            self._reading, events = read(self._reading, message)
            for event in events:
                if isinstance(event, Ended):
                    self._reading = None
                    self._last = event.usage
                    self._idle.set()
                elif isinstance(event, Started) and self._stop_wanted:
                    await self._ask_to_stop(client)  # the first came before the turn
                if self._buffer is not None:
                    await self._buffer.put(event)
                    if isinstance(event, Ended):
                        self._buffer.end()
        if isinstance(message, MirrorErrorMessage):
            _log.warning("agent %s: the store lags behind the transcript", self._launch.marker)
        if isinstance(message, ResultMessage) and message.total_cost_usd is not None:
            self._cost = message.total_cost_usd

    async def _may_use(
        self, tool: str, arguments: dict[str, Any], context: ToolPermissionContext
    ) -> PermissionResult:
        decision = await asyncio.to_thread(decide, tool, arguments, self._order.rules)
        if decision.allowed:
            return PermissionResultAllow()
        if self._buffer is not None:
            line = about(tool, arguments, str(self._launch.workspace))
            self._buffer.put_now(Denied(context.tool_use_id or "", tool, line))
        return PermissionResultDeny(message=decision.reason)

    def _hear(self, line: str) -> None:
        self._stderr.append(line[:500])

    def _turn_report(self) -> TurnReport | None:
        if self._report is None and self._broker is not None and self._order.token is not None:
            return self._broker.turn_report(self._order.token)
        return self._report

    # End

    async def close(self) -> None:
        """See `Agent`. Raises: TreeSurvivesError; then the next call tries again."""
        if self._closing is None or (self._closing.done() and not self._gone):
            self._closing = asyncio.create_task(self._close(), name="close agent")
        await to_the_end(asyncio.wait({self._closing}))
        self._closing.result()

    async def _close(self) -> None:
        owner = self._owner
        if owner is None:
            self._gone = True
            return
        if owner.done() and not self._gone:  # another try
            await self._end_tree()
            await self._clear()
            return
        try:
            if not owner.done() and not self._connected.is_set():
                # The SDK would wait for the process to go by itself.
                await end_tree(self._launch)
            elif self._up and not self._idle.is_set() and self._client is not None:
                await self._say_farewell(self._client)
        finally:
            owner.cancel()
            await asyncio.wait({owner})
        failed = not owner.cancelled() and owner.exception()
        if failed and (self._connected.is_set() or not self._gone):
            raise failed

    async def _say_farewell(self, client: ClaudeSDKClient) -> None:
        """Have the turn end in the transcript too; a process that is stuck is not waited for."""
        asked = self._unanswered
        waited = asyncio.get_running_loop().time() - asked if asked is not None else 0.0
        try:
            async with asyncio.timeout(max(0.0, FAREWELL_SECONDS - waited)):
                if asked is None:
                    await self._ask_to_stop(client)
                await self._idle.wait()
        except TimeoutError:
            _log.info("agent %s did not end its turn", self._launch.marker)

    def _end_turn(self) -> None:
        self._idle.set()
        if self._buffer is not None:
            how = "was closed" if self._closing is not None else "ended"
            self._buffer.end(
                AgentDiedError(f"the agent {how} in mid-turn", exit_code=self._exit_code)
            )

    async def _wind_up(self, client: ClaudeSDKClient | None) -> None:
        """In this order, each whatever became of the one before."""
        async with AsyncExitStack() as rest:  # last in, first out
            rest.push_async_callback(lambda: to_the_end(self._clear()))
            rest.callback(self._dismiss)
            rest.push_async_callback(lambda: to_the_end(self._settle()))
            if client is not None:
                rest.push_async_callback(lambda: to_the_end(self._disconnect(client)))
            rest.push_async_callback(lambda: to_the_end(self._end_tree()))
            # Whoever left an interrupt unanswered would not go for the end of its input either.
            if client is not None and self._unanswered is None:
                await self._disconnect(client)

    async def _end_tree(self) -> None:
        await end_tree(self._launch)
        self._gone = True

    async def _settle(self) -> None:
        if not await self._mirror.settle(SETTLE_SECONDS):
            _log.error("session %s: the store did not take all of the transcript", self.session)

    def _dismiss(self) -> None:
        if self._broker is not None and self._order.token is not None:
            self._report = self._broker.turn_report(self._order.token)
            self._broker.dismiss(self._order.token)

    async def _clear(self) -> None:
        """Once nothing of it runs: its folder goes, the sweep takes what would take long."""
        if not self._gone:
            return
        removal = asyncio.get_running_loop().run_in_executor(
            None, remove_folder, self._launch.agent_dir
        )
        try:
            await asyncio.wait({removal}, timeout=REMOVE_SECONDS)
            if not removal.done():
                _log.info("agent %s: its folder takes long to remove", self._launch.marker)
        finally:
            self._on_gone()

    async def _disconnect(self, client: ClaudeSDKClient) -> None:
        """Orderly if the process goes along; `end_tree` ends what does not."""
        try:
            async with asyncio.timeout(DISCONNECT_SECONDS):
                await client.disconnect()
        except TimeoutError:
            _log.info("agent %s does not end by itself", self._launch.marker)
        except ClaudeSDKError as exc:
            _log.warning("agent %s: disconnect: %s", self._launch.marker, type(exc).__name__)
