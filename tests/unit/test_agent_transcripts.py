"""Transcripts between the CLI and our store."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from larkline.agents.transcripts import Mirror, lay_out, mend
from larkline.domain.errors import StoreError
from larkline.domain.model import SessionId
from larkline.ports import TranscriptKey
from larkline.stores.memory import MemoryStore

S = "6ff06122-c810-4a7a-8745-61601e3abb64"


class Failing(MemoryStore):
    """Refuses the first so many appends."""

    failures = 2

    async def append(self, key: TranscriptKey, entries: Sequence[Mapping[str, object]]) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreError("the disk is full")
        await super().append(key, entries)


class Stuck(MemoryStore):
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def append(self, key: TranscriptKey, entries: Sequence[Mapping[str, object]]) -> None:
        await self.go.wait()
        await super().append(key, entries)


async def test_entries_are_stored_under_the_conversation() -> None:
    """Whatever the CLI's project key; the SDK is told that there is nothing to load."""
    store = MemoryStore()
    mirror = Mirror(store, project="conversation", readable=False)
    await mirror.append({"project_key": "-w-space", "session_id": S}, [{"type": "user"}])
    assert await store.load(("conversation", S, "")) == [{"type": "user"}]
    assert await mirror.load({"project_key": "-w-space", "session_id": S}) is None
    assert await mirror.settle(1)


async def test_a_store_that_fails_catches_up_in_order() -> None:
    """What was refused is tried again, before anything newer."""
    store = Failing()
    mirror = Mirror(store, project="c")
    key = {"project_key": "p", "session_id": S}
    await asyncio.gather(
        *(mirror.append(key, [{"type": "user", "uuid": f"{n}"}]) for n in range(5))  # type: ignore[arg-type]
    )
    kept = await store.load(("c", S, ""))
    assert kept is not None
    assert [entry["uuid"] for entry in kept] == ["0", "1", "2", "3", "4"]
    assert not mirror.behind
    assert await mirror.settle(1)


async def test_a_stuck_store_holds_up_one_turn_once() -> None:
    """The first append waits its patience, the next none; all is stored when it works again."""
    store = Stuck()
    mirror = Mirror(store, project="c", patience=0.2)
    key = {"project_key": "p", "session_id": S}
    async with asyncio.timeout(2):
        for number in range(20):
            with pytest.raises(TimeoutError, match="in time"):
                await mirror.append(key, [{"type": "user", "uuid": f"{number}"}])  # type: ignore[arg-type]
    assert mirror.behind
    store.go.set()
    assert await mirror.settle(5)
    kept = await store.load(("c", S, ""))
    assert kept is not None
    assert [entry["uuid"] for entry in kept] == [f"{number}" for number in range(20)]


async def test_settling_is_bounded() -> None:
    """A store that never works costs the given time, and it is said that something is missing."""
    mirror = Mirror(Stuck(), project="c", patience=0.01)
    with pytest.raises(TimeoutError):
        await mirror.append({"project_key": "p", "session_id": S}, [{"type": "user"}])
    async with asyncio.timeout(2):
        assert not await mirror.settle(0.05)


async def laid(store: MemoryStore, config: Path) -> bool:
    return await lay_out(store, "c", SessionId(S), config, "-w-space")


async def test_a_session_is_laid_out_for_the_cli(tmp_path: Path) -> None:
    """The main transcript, subagents' and their descriptions; nothing for an unknown session."""
    store = MemoryStore()
    assert not await laid(store, tmp_path)
    await store.append(("c", S, ""), [{"uuid": "1", "type": "user", "text": "ä\n"}])
    below = ("c", S, "subagents/agent-1")
    await store.append(below, [{"type": "agent_metadata", "toolUseId": "t"}, {"type": "user"}])
    await store.append(("c", S, "../../escape"), [{"type": "user"}])
    assert await laid(store, tmp_path)
    project = tmp_path / "projects/-w-space"
    line = (project / f"{S}.jsonl").read_text()
    assert line.startswith('{"type":"user"')
    assert json.loads(line) == {"uuid": "1", "type": "user", "text": "ä\n"}
    assert (project / S / "subagents/agent-1.jsonl").read_text() == '{"type":"user"}\n'
    about = json.loads((project / S / "subagents/agent-1.meta.json").read_text())
    assert about == {"toolUseId": "t"}
    assert not list(tmp_path.rglob("escape*"))
    assert (project / f"{S}.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("where", ["projects", "projects/-w-space", f"projects/-w-space/{S}.jsonl"])
async def test_an_agents_links_lead_nowhere(where: str, tmp_path: Path) -> None:
    """What the agent put in the way is replaced; the place it points to stays as it was."""
    store = MemoryStore()
    await store.append(("c", S, ""), [{"uuid": "1", "type": "user"}])
    config, outside = tmp_path / "config", tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (config / where).parent.mkdir(parents=True)
    target = outside / "kept" if where.endswith(".jsonl") else outside
    (config / where).symlink_to(target)
    assert await laid(store, config)
    assert [entry.name for entry in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "kept"
    assert (config / f"projects/-w-space/{S}.jsonl").read_text()
    assert not (config / where).is_symlink()


async def test_a_folder_in_the_way_goes(tmp_path: Path) -> None:
    """Also one with something in it."""
    store = MemoryStore()
    await store.append(("c", S, ""), [{"uuid": "1", "type": "user"}])
    (tmp_path / f"projects/-w-space/{S}.jsonl/full").mkdir(parents=True)
    assert await laid(store, tmp_path)
    assert (tmp_path / f"projects/-w-space/{S}.jsonl").is_file()


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"\xff", b"nul"])
def test_broken_settings_of_the_cli_are_put_aside(broken: bytes, tmp_path: Path) -> None:
    """The CLI would not start with them, ever again; good ones and none stay as they are."""
    assert not mend(tmp_path)
    path = tmp_path / ".claude.json"
    path.write_bytes(b'{"a": 1}')
    assert not mend(tmp_path)
    path.write_bytes(broken)
    assert mend(tmp_path)
    assert not path.exists()
    assert (tmp_path / ".claude.json.broken").read_bytes() == broken


def test_a_link_for_settings_is_put_aside_unread(tmp_path: Path) -> None:
    """Nor does a pipe hold us up."""
    path = tmp_path / ".claude.json"
    path.symlink_to("/etc/hostname")
    assert mend(tmp_path)
    os.mkfifo(path)
    assert mend(tmp_path)
    assert not mend(tmp_path)
