"""Agent transcripts between our store and the CLI's own files.

While an agent runs, `Mirror` brings every entry into the store. Before a session is resumed,
`lay_out` writes it from the store into the conversation's config folder. (The SDK would do that
too, but into a new temporary folder each time, with copies of the logins found, and in our loop.)

The store names a transcript by conversation, not by the CLI's project key: that is made from the
workspace's path, and a session shall survive a move of the data directory.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from larkline.agents.removal import remove_below
from larkline.domain.errors import StoreError
from larkline.domain.model import SessionId
from larkline.lifecycle import to_the_end
from larkline.ports import TranscriptKey, Transcripts

if TYPE_CHECKING:
    from claude_agent_sdk.types import (
        SessionKey,
        SessionListSubkeysKey,
        SessionStoreEntry,
        SessionStoreListEntry,
    )

PATIENCE_SECONDS = 3.0
"""How long a slow store may hold up a turn's result."""
BACKLOG_BATCHES = 10_000
_PAUSE_SECONDS = (0.1, 5.0)
_LARGEST_SETTINGS_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class _Batch:
    key: TranscriptKey
    entries: Sequence[Mapping[str, object]]
    written: asyncio.Future[None]


class Mirror:
    """The SDK's `SessionStore` over our `Transcripts`.

    Entries are written in order by one task of its own. An append that takes longer than
    `patience` raises TimeoutError, which the SDK reports and does not repeat; the entries stay in
    line and are written when the store works again. `settle` ends the task.

    `project`: the name under which all is stored; None: the SDK's own project key. A mirror that
    is not `readable` says that it knows no session, so that the SDK resumes from the local file.
    """

    def __init__(
        self,
        transcripts: Transcripts,
        *,
        project: str | None = None,
        readable: bool = True,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._transcripts = transcripts
        self._project = project
        self._readable = readable
        self._patience = patience
        self._backlog: deque[_Batch] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._behind = False

    @property
    def behind(self) -> bool:
        """Whether the store did not take an entry in time and has not caught up since."""
        return self._behind

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Store entries; durable on return. Raises: TimeoutError, StoreError (backlog full)."""
        if not entries:
            return
        if len(self._backlog) >= BACKLOG_BATCHES:
            raise StoreError(f"{len(self._backlog)} batches of transcript wait for the store")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch = cast("Sequence[Mapping[str, object]]", entries)
        self._backlog.append(_Batch(self._key(key), batch, written))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="transcript writer")
        # A store that is known to be stuck holds up nothing more.
        await asyncio.wait({written}, timeout=0 if self._behind else self._patience)
        if not written.done():
            self._behind = True
            raise TimeoutError("the store did not take the transcript in time; it is kept in line")
        written.result()

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """All entries of a transcript in order; None if unknown."""
        if not self._readable:
            return None
        found = await self._transcripts.load(self._key(key))
        return cast("list[SessionStoreEntry] | None", found)

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """Sessions with the time of their last entry in milliseconds."""
        found = await self._transcripts.sessions(self._project or project_key)
        return [{"session_id": session, "mtime": int(at * 1000)} for session, at in found]

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """The subagents' transcripts of a session."""
        project = self._project or key["project_key"]
        return await self._transcripts.subpaths(project, SessionId(key["session_id"]))

    async def delete(self, key: SessionKey) -> None:
        """Forget a transcript, with its subagents' if it is a main one."""
        await self._transcripts.delete(self._key(key))

    async def settle(self, seconds: float) -> bool:
        """Give the store this long to take what waits, then stop; True if nothing is left."""
        writer = self._writer
        if writer is not None and not writer.done():
            await asyncio.wait({writer}, timeout=seconds)
            writer.cancel()
            await asyncio.wait({writer}, timeout=seconds)
        return not self._backlog

    def _key(self, key: SessionKey) -> TranscriptKey:
        return (self._project or key["project_key"], key["session_id"], key.get("subpath", ""))

    async def _write(self) -> None:
        pause, longest = _PAUSE_SECONDS
        while self._backlog:
            batch = self._backlog[0]
            try:
                await self._transcripts.append(batch.key, batch.entries)
            except StoreError:
                self._behind = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
                continue
            self._backlog.popleft()
            pause = _PAUSE_SECONDS[0]
            if not batch.written.done():
                batch.written.set_result(None)
        self._behind = False


async def lay_out(
    transcripts: Transcripts, project: str, session: SessionId, config: Path, project_key: str
) -> bool:
    """Write a session from the store to where the CLI looks for it; False if the store has none.

    The files below `config` belong to the agent, which may have left links there: none is followed.
    Raises: StoreError, OSError.
    """
    main = await transcripts.load((project, session, ""))
    if not main:
        return False
    files = {f"{session}.jsonl": _lines(main)}
    for subpath in await transcripts.subpaths(project, session):
        entries = await transcripts.load((project, session, subpath))
        if entries and _plain(subpath):
            files.update(_subagent(f"{session}/{subpath}", entries))
    await to_the_end(asyncio.to_thread(_write_below, config, ("projects", project_key), files))
    return True


def mend(config: Path) -> bool:
    """Put the CLI's own settings file aside if it is broken: the CLI would not start with it.

    True if it was. The file is the agent's: it may be anything.
    """
    path = config / ".claude.json"
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            data = file.read(_LARGEST_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return False
    except OSError:
        data = b""
    with suppress(ValueError, RecursionError):
        if len(data) <= _LARGEST_SETTINGS_BYTES and isinstance(json.loads(data), dict):
            return False
    try:
        path.rename(config / ".claude.json.broken")
    except OSError:  # the agent has something in that place
        path.unlink()
    return True


def _subagent(name: str, entries: list[dict[str, object]]) -> dict[str, bytes]:
    """The transcript, and beside it the description that travels as an entry; the last counts."""
    about = [each for each in entries if each.get("type") == "agent_metadata"]
    told = [each for each in entries if each.get("type") != "agent_metadata"]
    files = {f"{name}.jsonl": _lines(told)} if told else {}
    if about:
        described = {key: value for key, value in about[-1].items() if key != "type"}
        files[f"{name}.meta.json"] = json.dumps(described).encode()
    return files


def _plain(subpath: str) -> bool:
    parts = subpath.split("/")
    return all(part not in ("", ".", "..") and "\0" not in part for part in parts)


def _lines(entries: Sequence[Mapping[str, object]]) -> bytes:
    # The CLI looks for some entries by how their line begins.
    lines = (
        json.dumps(
            {"type": each["type"], **each} if "type" in each else each, separators=(",", ":")
        )
        for each in entries
    )
    return "".join(f"{line}\n" for line in lines).encode()


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _write_below(root: Path, folders: tuple[str, ...], files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        *inner, last = name.split("/")
        at = os.open(root, _FOLDER)
        try:
            for folder in (*folders, *inner):
                deeper = _enter(at, folder)
                os.close(at)
                at = deeper
            _place(at, last, data)
        finally:
            os.close(at)


def _enter(at: int, name: str) -> int:
    """Open a folder, made if need be; whatever else has its name is removed."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=at)
    try:
        return os.open(name, _FOLDER, dir_fd=at)
    except OSError:
        os.unlink(name, dir_fd=at)
        os.mkdir(name, 0o700, dir_fd=at)
        return os.open(name, _FOLDER, dir_fd=at)


def _place(at: int, name: str, data: bytes) -> None:
    fresh = f".{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=at)
    with os.fdopen(os.open(fresh, flags, 0o600, dir_fd=at), "wb") as file:
        file.write(data)
    try:
        os.replace(fresh, name, src_dir_fd=at, dst_dir_fd=at)
    except IsADirectoryError:
        remove_below(name, at=at)
        os.replace(fresh, name, src_dir_fd=at, dst_dir_fd=at)
