"""Agents without a process, for tests, benches and simulations: they play a script.

A script is any object with a `play`: what the agent reports for a prompt. `Reading` takes its
script from the prompt; the others are the ways in which agents fail.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

from larkline.agents.buffer import EventBuffer
from larkline.domain.errors import AgentDiedError, AgentStartError, StartFault
from larkline.domain.events import (
    AgentEvent,
    Ended,
    MessageStart,
    Retrying,
    Started,
    TextDelta,
    TextDone,
    ToolEnded,
    ToolStarted,
)
from larkline.domain.model import SessionId, Usage
from larkline.lifecycle import to_the_end
from larkline.ports import AgentSpec, ModelFailure


class Script(Protocol):
    """What an agent does with a prompt. `deaf`: it does not react to interrupts."""

    @property
    def deaf(self) -> bool:
        """Whether interrupts are ignored."""

    def play(self, prompt: str) -> AsyncGenerator[AgentEvent, None]:
        """Events of one turn without `Started` and `Ended`; the text told is the answer.

        An `Ended` of its own replaces the usual one.
        """


@dataclass(frozen=True, slots=True)
class Slow:
    """Answers `words` words, one each `pause` seconds."""

    words: int = 10
    pause: float = 0.05
    deaf: ClassVar[bool] = False

    async def play(self, prompt: str) -> AsyncGenerator[AgentEvent, None]:
        """See `Script`."""
        async for event in _said([f"w{number} " for number in range(self.words)], self.pause):
            yield event


@dataclass(frozen=True, slots=True)
class Flooding:
    """Answers `words` words as fast as they are taken."""

    words: int = 10_000
    deaf: ClassVar[bool] = False

    async def play(self, prompt: str) -> AsyncGenerator[AgentEvent, None]:
        """See `Script`."""
        async for event in _said([f"w{number} " for number in range(self.words)], 0):
            yield event


@dataclass(frozen=True, slots=True)
class Silent:
    """Says some words, then nothing until it is interrupted."""

    words: int = 0
    deaf: bool = False

    async def play(self, prompt: str) -> AsyncGenerator[AgentEvent, None]:
        """See `Script`."""
        yield MessageStart()
        for number in range(self.words):
            yield TextDelta(f"w{number} ")
        await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class Deaf(Silent):
    """Silent, and only closing it ends the turn."""

    deaf: bool = True


@dataclass(frozen=True, slots=True)
class Crashing:
    """Says some words, then its process is gone."""

    words: int = 2
    exit_code: int = -9
    deaf: ClassVar[bool] = False

    async def play(self, prompt: str) -> AsyncGenerator[AgentEvent, None]:
        """See `Script`."""
        yield MessageStart()
        for number in range(self.words):
            yield TextDelta(f"w{number} ")
        raise AgentDiedError("the scripted agent was told to die", exit_code=self.exit_code)


_DIRECTIVE = re.compile(r"\[\[([a-z]+)(?::(.*?))?\]\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reading:
    """Does what the prompt says, in the words of the offline model.

    `[[text:hello]]`, `[[tokens:500]]`, `[[size:2000]]`, `[[tool:Bash ls]]`, `[[delay:0.02]]`,
    `[[hang]]`, `[[die]]`, `[[status:529]]`; a prompt without any is repeated.
    """

    deaf: ClassVar[bool] = False

    async def play(self, prompt: str) -> AsyncGenerator[AgentEvent, None]:
        """See `Script`."""
        orders = _DIRECTIVE.findall(prompt) or [("text", prompt)]
        pause = next((float(value) for name, value in orders if name == "delay"), 0.0)
        for number, (name, value) in enumerate(orders):
            match name:
                case "text":
                    async for event in _said(re.findall(r"\s*\S+\s*", value) or [value], pause):
                        yield event
                case "tokens":
                    async for event in _said(["tok "] * int(value), pause):
                        yield event
                case "size":
                    async for event in _said(["x" * int(value)], pause):
                        yield event
                case "tool":
                    tool, _, about = value.partition(" ")
                    yield ToolStarted(f"tool-{number}", tool, about)
                    yield ToolEnded(f"tool-{number}", failed=False)
                case "hang":
                    await asyncio.Event().wait()
                case "die":
                    raise AgentDiedError("the prompt said so", exit_code=-9)
                case "status":
                    yield Retrying(int(value))
                    yield _refused(int(value))
                    return


async def _said(words: list[str], pause: float) -> AsyncGenerator[AgentEvent, None]:
    yield MessageStart()
    for word in words:
        if pause:
            await asyncio.sleep(pause)
        yield TextDelta(word)
    yield TextDone("".join(words))


def _refused(status: int) -> Ended:
    return Ended(
        session=SessionId(""),
        is_error=True,
        text=f"API Error: {status}",
        terminal_reason="api_error",
        api_error_status=status,
        error="server_error" if status >= 500 else "unknown",
        subtype="success",
        num_turns=1,
    )


class ScriptedAgent:
    """An `Agent` that plays a script; nothing of it outlives `close`."""

    def __init__(self, session: SessionId, script: Script, on_close: Callable[[], None]) -> None:
        self._session = session
        self._script = script
        self._on_close = on_close
        self._player: asyncio.Task[None] | None = None
        self._interrupted = False
        self._closed = False
        self._spoiled = False
        self._usage = Usage()
        self._failure: ModelFailure | None = None
        self.prompts: list[str] = []

    @property
    def session(self) -> SessionId:
        """See `Agent`."""
        return self._session

    @property
    def alive(self) -> bool:
        """See `Agent`."""
        return not self._closed and not self._spoiled

    @property
    def pid(self) -> int | None:
        """See `Agent`: there is no process."""
        return None

    async def turn(self, prompt: str, prompt_uuid: str) -> AsyncGenerator[AgentEvent, None]:
        """See `Agent`."""
        if self._player is not None:
            raise RuntimeError("the agent is in a turn")
        if not self.alive:
            raise AgentDiedError("the agent is closed")
        self._interrupted = False
        self._usage, self._failure = Usage(), None
        self.prompts.append(prompt)
        buffer = EventBuffer()
        self._player = asyncio.create_task(self._play(prompt, buffer))
        whole = False
        try:
            yield Started(self._session, "scripted", "0")
            while (event := await buffer.get()) is not None:
                whole = isinstance(event, Ended)
                yield event
        finally:
            self._spoiled = not whole
            player, self._player = self._player, None
            player.cancel()
            await to_the_end(asyncio.wait({player}))

    def usage(self) -> Usage:
        """See `Agent`: one token a word."""
        return self._usage

    def last_failure(self) -> ModelFailure | None:
        """See `Agent`."""
        return self._failure

    async def interrupt(self) -> None:
        """See `Agent`."""
        if self._player is not None and not self._script.deaf:
            self._interrupted = True
            self._player.cancel()

    async def close(self) -> None:
        """See `Agent`."""
        if self._closed:
            return
        self._closed = True
        if self._player is not None:
            self._player.cancel()
        self._on_close()

    async def _play(self, prompt: str, buffer: EventBuffer) -> None:
        """Fill the buffer; interrupted or not, `Ended` is the last event."""
        answer, end = "", None
        try:
            async with aclosing(self._script.play(prompt)) as events:
                async for event in events:
                    if isinstance(event, Ended):
                        end = event
                        break
                    if isinstance(event, TextDone):
                        answer = event.text
                    await buffer.put(event)
        except asyncio.CancelledError:
            if self._closed or not self._interrupted:
                buffer.end(AgentDiedError("the agent was closed in mid-turn"))
                raise
        except AgentDiedError as error:
            self._closed = True
            self._on_close()
            buffer.end(error)
            return
        buffer.put_now(self._end(end, answer))
        buffer.end()

    def _end(self, told: Ended | None, answer: str) -> Ended:
        if told is not None:
            self._failure = ModelFailure(told.api_error_status, None)
            return replace(told, session=self._session)
        self._usage = Usage(output_tokens=len(answer.split()))
        ended = Ended(self._session, is_error=False, text=answer, num_turns=1, usage=self._usage)
        if self._interrupted:
            return replace(
                ended,
                is_error=True,
                text="",
                terminal_reason="aborted_streaming",
                subtype="error_during_execution",
            )
        return replace(ended, terminal_reason="completed", subtype="success")


@dataclass(slots=True)
class ScriptedMaker:
    """An `AgentMaker`. `script` chooses by conversation where it is a function.

    `start_seconds`: how long a start takes; `fault`: why every start fails. `started` counts
    starts, `live` is the number of agents now, `most` the most there were at once.
    """

    script: Script | Callable[[AgentSpec], Script] = field(default_factory=Reading)
    start_seconds: float = 0.0
    fault: StartFault | None = None
    started: int = 0
    live: int = 0
    most: int = 0
    agents: list[ScriptedAgent] = field(default_factory=list)

    async def start(self, spec: AgentSpec) -> ScriptedAgent:
        """See `AgentMaker`."""
        self.started += 1
        self._count(1)
        try:
            if self.start_seconds:
                await asyncio.sleep(self.start_seconds)
            if self.fault is not None:
                raise AgentStartError(self.fault, "the scripted agent was told not to start")
        except BaseException:
            self._count(-1)
            raise
        script = self.script(spec) if callable(self.script) else self.script
        session = spec.resume or SessionId(str(uuid.uuid4()))
        agent = ScriptedAgent(session, script, lambda: self._count(-1))
        self.agents.append(agent)
        return agent

    def _count(self, change: int) -> None:
        self.live += change
        self.most = max(self.most, self.live)


def unstartable(fault: StartFault = StartFault.NO_CLI) -> ScriptedMaker:
    """A maker whose every start fails."""
    return ScriptedMaker(fault=fault)
