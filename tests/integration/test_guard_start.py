"""What an agent is started with, and what the guard lets through."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from pathlib import Path

import pytest
from guard_kit import DEAF, IDLE, Place, level, of_process, ready, spawn, until

from larkline.agents.ending import Ended, EndReason, end_tree, read_ended, read_record, stderr_tail
from larkline.agents.isolation import Isolation, Level
from larkline.agents.launcher import (
    COPIED_BY_SDK,
    Launch,
    Limits,
    clean_config,
    install_guard,
)
from larkline.agents.processes import carrying, descendants, stat_fields, tree_rss_bytes
from larkline.domain.errors import AgentStartError, StartFault

LEVELS: tuple[Level, ...] = ("full", "tree-only", "none")
SECRET = "sk-of-the-gateway"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A fresh data directory."""
    return Place(tmp_path)


async def output(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """What it wrote until its end, to stdout and stderr."""
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    return out.decode(), err.decode()


@pytest.mark.parametrize("wanted", LEVELS)
async def test_environment_is_the_list(place: Place, wanted: Level) -> None:
    """Of the gateway's environment nothing reaches the agent, nor the guard beside it."""
    launch = place.launch(
        await level(wanted, place.agents),
        place.payload("echo ready; env; read x"),
        env={"ANTHROPIC_BASE_URL": "http://127.0.0.1:1", "LANG": "zh_CN.UTF-8"},
    )
    process = await spawn(
        launch,
        ANTHROPIC_API_KEY=SECRET,
        LARKLINE_FEISHU__APP_SECRET=SECRET,
        LD_PRELOAD_HINT=SECRET,
        CLAUDE_CODE_ENTRYPOINT="sdk-py",
    )
    await ready(process)
    record = read_record(launch.agent_dir)
    assert record is not None
    for pid in (record.pid, *descendants(record.pid)):
        assert SECRET.encode() not in of_process(pid, "environ")
    assert process.stdin is not None
    process.stdin.write(b"\n")
    out, _ = await output(process)
    names = {line.split("=", 1)[0] for line in out.splitlines()}
    assert names - {"_", "OLDPWD", "SHLVL"} == {
        "PATH", "HOME", "LANG", "SHELL", "TMPDIR", "PWD", "LARKLINE_AGENT", "CLAUDE_CONFIG_DIR",
        "ANTHROPIC_BASE_URL", "CLAUDE_CODE_ENTRYPOINT",
    }  # fmt: skip
    assert "LANG=zh_CN.UTF-8" in out
    assert f"PWD={launch.workspace}" in out


@pytest.mark.parametrize("wanted", LEVELS)
@pytest.mark.parametrize("code", [0, 1, 7, 255])
async def test_exit_codes_pass(place: Place, wanted: Level, code: int) -> None:
    """The guard ends with the agent's own code, and writes it down."""
    launch = place.launch(await level(wanted, place.agents), place.payload(f"exit {code}"))
    process = await spawn(launch)
    await output(process)
    assert process.returncode == code
    assert read_ended(launch.agent_dir) == Ended(EndReason.EXITED, code)


@pytest.mark.parametrize("wanted", LEVELS)
async def test_arguments_pass(place: Place, wanted: Level) -> None:
    """Arguments arrive as they are: empty, with spaces, quotes, newlines, dashes, Chinese."""
    arguments = ["--flag", "", "two words", "'\"$(id)`id`", "line\nbreak", "--", "中文", "*"]
    cli = place.payload('for a in "$@"; do printf "%s|" "$a"; done')
    launch = place.launch(await level(wanted, place.agents), cli)
    out, _ = await output(await spawn(launch, *arguments))
    assert out.split("|")[:-1] == arguments


@pytest.mark.parametrize("wanted", LEVELS)
async def test_bytes_pass(place: Place, wanted: Level) -> None:
    """The guard never touches stdin and stdout: 8 MB of all byte values come back unchanged."""
    launch = place.launch(await level(wanted, place.agents), place.payload("exec cat"))
    data = bytes(range(256)) * 32768
    process = await spawn(launch)
    async with asyncio.timeout(20):
        out, _ = await process.communicate(data)
    assert out == data
    assert process.returncode == 0


@pytest.mark.parametrize("wanted", LEVELS)
async def test_interrupt_passes(place: Place, wanted: Level) -> None:
    """SIGINT to the guard reaches the agent and does not end the guard."""
    cli = place.payload('trap "echo interrupted; exit 5" INT; echo ready; read x; read y')
    launch = place.launch(await level(wanted, place.agents), cli)
    process = await spawn(launch)
    await ready(process)
    process.send_signal(signal.SIGINT)
    out, _ = await output(process)
    assert (out, process.returncode) == ("interrupted\n", 5)


async def test_terminal_signals_stay_away(place: Place) -> None:
    """A Ctrl-C at larkline's terminal is larkline's: the agent is in a session of its own."""
    launch = place.launch(await level("none", place.agents), place.payload(IDLE))
    process = await spawn(launch)
    await ready(process)
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    assert os.getpgid(descendants(process.pid)[0]) != os.getpgid(0)
    await end_tree(launch)


@pytest.mark.parametrize("wanted", LEVELS)
async def test_stderr_goes_both_ways(place: Place, wanted: Level) -> None:
    """What the agent says on stderr reaches the SDK, and a file that outlives it."""
    launch = place.launch(await level(wanted, place.agents), place.payload("echo oops >&2; exit 3"))
    _, err = await output(await spawn(launch))
    assert err == "oops\n"
    assert stderr_tail(launch.agent_dir) == "oops\n"


async def test_stderr_can_stay_in_the_file(place: Place) -> None:
    """Without a callback the agent's stderr does not run into larkline's own."""
    launch = place.launch(await level("none", place.agents), place.payload("echo oops >&2"))
    launch = dataclasses.replace(launch, forward_stderr=False)
    _, err = await output(await spawn(launch))
    assert err == ""
    assert stderr_tail(launch.agent_dir) == "oops\n"


async def test_stderr_is_bounded(place: Place) -> None:
    """A flood on stderr that nobody reads fills neither disk nor time; the last words are kept."""
    flood = "i=0; while [ $i -lt 20000 ]; do echo 0123456789012345678901234567890123456789012345"
    cli = place.payload(
        f"({flood}6789012345678901234567890123456789; i=$((i+1)); done; echo last)>&2"
    )
    launch = place.launch(await level("none", place.agents), cli)
    process = await spawn(launch)  # nobody reads its pipe until it has ended
    await until(lambda: read_ended(launch.agent_dir) is not None, 20)
    sizes = [path.stat().st_size for path in launch.agent_dir.glob("stderr*")]
    assert sum(sizes) < 600_000
    assert stderr_tail(launch.agent_dir).endswith("\nlast\n")
    await output(process)


async def test_limits_hold(place: Place) -> None:
    """Open files and cores are bounded, and the kernel takes the agent before larkline."""
    cli = place.payload("ulimit -n; ulimit -c; cat /proc/self/oom_score_adj")
    launch = place.launch(await level("full", place.agents), cli)
    launch = dataclasses.replace(launch, limits=Limits(open_files=512))
    out, _ = await output(await spawn(launch))
    files, cores, score = out.split()
    assert (files, cores) == ("512", "0")
    assert int(score) >= 500


@pytest.mark.parametrize("wanted", LEVELS)
async def test_agents_step_back(place: Place, wanted: Level) -> None:
    """All of an agent yields to larkline; its guard does not, it must be quick."""
    launch = place.launch(await level(wanted, place.agents), place.payload(IDLE))
    await ready(await spawn(launch))
    record = read_record(launch.agent_dir)
    assert record is not None
    own = int(stat_fields(os.getpid())[16])
    others = [pid for pid in carrying(launch.marker) if pid != record.pid]
    assert int(stat_fields(record.pid)[16]) == own
    assert others
    assert {int(stat_fields(pid)[16]) for pid in others} == {min(own + 5, 19)}
    assert os.sched_getscheduler(record.pid) == os.SCHED_OTHER
    assert {os.sched_getscheduler(pid) for pid in others} == {os.SCHED_BATCH}
    await end_tree(launch)


async def test_memory_of_a_tree(place: Place) -> None:
    """The memory of an agent counts everything below its guard."""
    cli = place.payload("x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo ready; read y")
    launch = place.launch(await level("full", place.agents), cli)
    process = await spawn(launch)
    await ready(process)
    assert 30_000_000 < tree_rss_bytes(process.pid) < 300_000_000
    await end_tree(launch)
    assert tree_rss_bytes(process.pid) == 0


async def test_folder_serves_once(place: Place) -> None:
    """A folder that was used before starts nothing, neither through us nor by hand."""
    launch = place.launch(await level("none", place.agents), place.payload(IDLE))
    process = await spawn(launch)
    await ready(process)
    again = await asyncio.create_subprocess_exec(
        launch.agent_dir / "claude", stderr=asyncio.subprocess.PIPE
    )
    _, said = await again.communicate()
    assert again.returncode == 70
    assert b"used before" in said
    with pytest.raises(AgentStartError):
        launch.cli_wrapper()
    await end_tree(launch)


async def test_start_failures_are_typed(place: Place) -> None:
    """A missing CLI or workspace is told before anything is started."""
    isolation = await level("none", place.agents)
    launch = place.launch(isolation, place.base / "absent")
    with pytest.raises(AgentStartError) as no_cli:
        launch.cli_wrapper()
    assert no_cli.value.fault is StartFault.NO_CLI
    launch = place.launch(isolation, place.payload(IDLE))
    launch.workspace.rmdir()
    with pytest.raises(AgentStartError) as no_workspace:
        launch.cli_wrapper()
    assert no_workspace.value.fault is StartFault.NO_WORKSPACE
    launch.workspace.symlink_to(place.base)
    with pytest.raises(AgentStartError):
        launch.cli_wrapper()


async def test_bwrap_that_fails(place: Place) -> None:
    """A bubblewrap that cannot start is a failed start with its own words, not an agent's end."""
    broken = place.payload("echo 'bwrap: No permissions' >&2; exit 1")
    isolation = Isolation("full", broken, False, True, ())
    launch = place.launch(isolation, place.payload(IDLE))
    process = await spawn(launch)
    _, err = await output(process)
    assert "No permissions" in err
    assert read_ended(launch.agent_dir) == Ended(EndReason.START_FAILED, 1)


async def test_impatient_second_signal(place: Place) -> None:
    """A second SIGTERM does not lengthen the agent's grace."""
    launch = place.launch(await level("none", place.agents), place.payload(DEAF))
    process = await spawn(launch)
    await ready(process)
    start = asyncio.get_running_loop().time()
    process.send_signal(signal.SIGTERM)
    await asyncio.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    await process.wait()
    assert asyncio.get_running_loop().time() - start < 2.2
    assert read_ended(launch.agent_dir) == Ended(EndReason.STOPPED, 137)


@pytest.mark.parametrize("name", COPIED_BY_SDK)
@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "folder"])
async def test_links_in_the_config_folder(place: Place, name: str, kind: str) -> None:
    """What the SDK would read as larkline on a resume is moved away unless it is a plain file."""
    secret = place.base / "settings.toml"
    secret.write_text("app_secret = 1")
    config = place.base / "homes" / "one"
    config.mkdir()
    path = config / name
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "hard link":
        path.hardlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    clean_config(config)
    assert not os.path.lexists(path)
    assert secret.read_text() == "app_secret = 1"
    path.write_text("{}")
    clean_config(config)
    assert path.read_text() == "{}"


@pytest.mark.parametrize("wanted", ["full", "tree-only"])
async def test_resume_folder(place: Place, wanted: Level) -> None:
    """The SDK's temporary config folder is the agent's while it runs, and no other is."""
    mine, other = place.resumes / "claude-resume-mine", place.resumes / "claude-resume-other"
    for folder in (mine, other):
        folder.mkdir()
        (folder / "file").write_text("here")
    cli = place.payload(
        f'cat "$CLAUDE_CONFIG_DIR/file"; echo more >"$CLAUDE_CONFIG_DIR/new"; cat {other}/file'
    )
    launch = place.launch(await level(wanted, place.agents), cli)
    out, _ = await output(await spawn(launch, CLAUDE_CONFIG_DIR=str(mine)))
    assert out == "here" or (wanted == "tree-only" and out == "herehere")
    assert (mine / "new").read_text() == "more\n"


@pytest.mark.parametrize("kind", ["elsewhere", "other name", "link", "deeper"])
async def test_strange_config_folders_are_refused(place: Place, kind: str) -> None:
    """An agent is not started with a config folder that is neither its own nor the SDK's."""
    asked = {
        "elsewhere": place.base / "claude-resume-x",
        "other name": place.resumes / "settings",
        "link": place.resumes / "claude-resume-x",
        "deeper": place.resumes / "claude-resume-x" / "..",
    }[kind]
    if kind == "link":
        asked.symlink_to(place.base)
    else:
        asked.mkdir(parents=True, exist_ok=True)
    launch = place.launch(await level("full", place.agents), place.payload(IDLE))
    process = await spawn(launch, CLAUDE_CONFIG_DIR=str(asked))
    _, err = await output(process)
    assert process.returncode == 70
    assert "refused" in err
    assert read_ended(launch.agent_dir) == Ended(EndReason.REFUSED, 70)


async def test_unusable_folders(place: Place) -> None:
    """A config folder that cannot be made is a failed start that names it, not a crash."""
    launch = place.launch(await level("none", place.agents), place.payload(IDLE))
    launch.config_dir.write_text("in the way")
    with pytest.raises(AgentStartError, match="homes"):
        launch.cli_wrapper()


def test_nul_is_refused(place: Place) -> None:
    """A NUL in a value cannot be told apart in the launch file, so it is an error."""
    isolation = Isolation("none", None, False, False, ())
    launch: Launch = place.launch(isolation, place.payload(IDLE), env={"A": "b\0gateway\0001"})
    with pytest.raises(AgentStartError):
        launch.cli_wrapper()


async def test_the_guard_is_installed_by_many_at_once(tmp_path: Path) -> None:
    """Starts that run beside each other in a fresh folder all find their guard."""
    for n in range(20):
        root = tmp_path / str(n)
        found = await asyncio.gather(
            *(asyncio.to_thread(install_guard, root) for _ in range(8)), return_exceptions=True
        )
        assert all(isinstance(each, Path) and os.access(each, os.X_OK) for each in found), found
