"""What a hostile agent can do when it is shut in: nothing outside its own folders."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from guard_kit import Place, level, spawn

from larkline.agents.ending import end_tree, read_record, survivors
from larkline.agents.isolation import Hole, Isolation
from larkline.agents.launcher import Launch
from larkline.agents.probing import probe

SECRET = "the-secret-of-another"


@pytest.fixture
def place() -> Iterator[Place]:
    """A data directory with things an agent must not see; not below /tmp, which is the agent's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="larkline-test-") as folder:
        yield furnished(Place(Path(folder)))


def furnished(place: Place) -> Place:
    """Other people's things around it."""
    other = place.base / "workspaces" / "fedcba9876543210"
    other.mkdir()
    for path in (
        place.base / "larkline.toml",
        place.base / "larkline.db",
        other / "diary",
        place.base / "homes" / "other-home",
        place.resumes / "credentials",
        place.agents / "note",
    ):
        path.write_text(SECRET)
    return place


@pytest.fixture(params=["best", "user namespace", "host proc"])
async def isolation(request: pytest.FixtureRequest, place: Place) -> Isolation:
    """Full isolation in the forms that probing may choose, as far as they work here."""
    found = await level("full", place.agents)
    if request.param == "best":
        return found
    return Isolation("full", found.bwrap, True, request.param == "user namespace", ())


async def hostile(launch: Launch, **env: str) -> str:
    """What a payload brought out, its complaints included."""
    process = await spawn(launch, **env)
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    return out.decode(errors="replace") + err.decode(errors="replace")


READS = {
    "settings": "cat {base}/larkline.toml",
    "database": "cat {base}/larkline.db",
    "another workspace": "cat {base}/workspaces/fedcba9876543210/diary",
    "another home": "cat {base}/homes/other-home",
    "another's resume folder": "cat {base}/resumes/credentials",
    "the agents' folders": "cat {base}/agents/note",
    "everything below data_dir": "grep -rs secret-of {base}",
    "dot dot": "cd {ws} && cat ../fedcba9876543210/diary ../../larkline.toml",
    "a link": "ln -s {base}/larkline.db {ws}/link && cat {ws}/link",
    "old root": "cat /proc/1/root{base}/larkline.db /proc/1/cwd/larkline.db",
    "gateway's environment": "cat /proc/*/environ | tr '\\0' '\\n' | grep secret-of",
    "gateway's environment by pid": "cat /proc/{gateway}/environ | tr '\\0' '\\n'",
    "gateway's memory and files": "cat /proc/{gateway}/root{base}/larkline.db; "
    "ls -l /proc/{gateway}/fd; cat /proc/{gateway}/cwd/larkline.toml",
    "own launch file": "cat {agent}/launch",
    "shadow": "cat /etc/shadow && echo the-secret-of-another",
    "home": "ls -A /root /home /srv /mnt /media 2>/dev/null | grep -v : | grep . "
    "&& echo the-secret-of-another",
    "inherited descriptors": "ls -l /proc/$$/fd/ | grep -v -e pipe: -e /dev/null -e /opt/claude "
    "-e total && echo the-secret-of-another",
}


@pytest.mark.parametrize("what", list(READS))
async def test_cannot_read(place: Place, isolation: Isolation, what: str) -> None:
    """Nothing of larkline, of another conversation or of the machine's secrets can be read."""
    launch = place.launch(isolation, place.base / "payload")
    command = READS[what].format(
        base=place.base, ws=launch.workspace, gateway=os.getpid(), agent=launch.agent_dir
    )
    payload = place.payload(f"exec </dev/null\n{command}\necho over")
    launch = place.launch(isolation, payload)
    said = await hostile(launch, ANTHROPIC_API_KEY=SECRET)
    assert SECRET not in said
    assert "gateway\0" not in said
    assert "over" in said


WRITES = {
    "settings": "echo x >{base}/larkline.toml",
    "database": "echo x >>{base}/larkline.db",
    "another workspace": "echo x >{base}/workspaces/fedcba9876543210/diary",
    "new workspace": "mkdir {base}/workspaces/aaaaaaaaaaaaaaaa",
    "beside": "echo x >{base}/file",
    "own agent folder": "echo x >{agent}/launch; rm -f {agent}/guard.json",
    "system": "echo x >/usr/bin/larkline-was-here",
    "system by remount": "mount -o remount,rw /usr; echo x >/usr/bin/larkline-was-here",
    "etc": "echo x >/etc/larkline-was-here",
    "root": "echo x >/larkline-was-here",
    "cli": "echo x >>/opt/claude",
    "unmount": "umount -l {ws}; umount -l /tmp; echo x >{base}/file",
    "device": "mknod {ws}/disk b 254 0 && cat {ws}/disk",
    "kernel": "cat /proc/sys/kernel/core_pattern >/proc/sys/kernel/core_pattern && echo opened; "
    "for f in /proc/sysrq-trigger /proc/irq/default_smp_affinity; do "
    "true >>$f && echo opened; done",
}


REFUSALS = ("denied", "Read-only", "not permitted", "nonexist", "must be superuser", "No such")


@pytest.mark.parametrize("what", list(WRITES))
async def test_cannot_write(place: Place, isolation: Isolation, what: str) -> None:
    """Nothing outside its own folders can be changed, and the attempt says so."""
    launch = place.launch(isolation, place.base / "payload")
    outside = [p for p in place.base.rglob("*") if p.is_file()]
    command = WRITES[what].format(base=place.base, ws=launch.workspace, agent=launch.agent_dir)
    payload = place.payload(f"{command}\nwait; echo over $?")
    before = {path: path.read_bytes() for path in outside}
    launch = place.launch(isolation, payload)
    said = await hostile(launch)
    assert "over" in said
    assert any(word in said for word in REFUSALS), said
    assert {path: path.read_bytes() for path in outside} == before
    assert not (place.base / "file").exists()
    assert not Path("/usr/bin/larkline-was-here").exists()
    assert not Path("/etc/larkline-was-here").exists()
    assert "opened" not in said
    assert payload.read_text().endswith("echo over $?\n")


async def test_can_work(place: Place, isolation: Isolation) -> None:
    """Its own workspace, config folder, /tmp, /dev/shm, git and loopback are there for it."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    payload = place.payload(
        'set -e; echo a >file; echo b >"$HOME/file"; echo c >/tmp/file; echo d >/dev/shm/file\n'
        "git init -q . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x\n"
        f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3'\n"
        "cat </dev/urandom | head -c 4 >/dev/null; ls /etc/ssl/certs >/dev/null; id -u; echo fine"
    )
    launch = place.launch(isolation, payload)
    said = await hostile(launch)
    assert said.endswith("fine\n"), said
    assert (launch.workspace / "file").read_text() == "a\n"
    assert (launch.workspace / ".git").is_dir()
    assert (launch.config_dir / "file").read_text() == "b\n"
    assert (launch.tmp / "file").read_text() == "c\n"
    assert not Path("/dev/shm/file").exists()
    listener.setblocking(False)
    listener.accept()[0].close()
    listener.close()


async def test_agents_do_not_meet(place: Place, isolation: Isolation) -> None:
    """Two agents see neither each other's processes nor each other's /tmp."""
    payload = place.payload(
        'echo mine >"/tmp/sock"; sleep 30 & ls /proc | grep -c "^[0-9]"; read x'
    )
    first = place.launch(isolation, payload)
    process = await spawn(first)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        await process.stdout.readline()
    look = place.payload("ls -A /tmp; cat /proc/*/cmdline | tr '\\0' ' ' | grep -c 'sleep 3[0]'")
    second = place.launch(isolation, look, conversation="fedcba9876543210")
    said = await hostile(second)
    await end_tree(first)
    assert "sock" not in said
    if isolation.own_proc:
        assert said.strip().endswith("0")


async def test_cannot_signal_outside(place: Place, isolation: Isolation) -> None:
    """No process outside can be signalled, the guard and the gateway included."""
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    payload = place.payload(
        f"read x; kill -9 {bystander.pid} {os.getpid()} $x; kill -9 -1; echo over"
    )
    launch = place.launch(isolation, payload)
    process = await spawn(launch)
    assert process.stdin is not None
    process.stdin.write(f"{process.pid}\n".encode())
    async with asyncio.timeout(20):
        await process.communicate()
    assert bystander.returncode is None
    assert read_record(launch.agent_dir) is not None
    bystander.kill()
    await bystander.wait()


async def test_daemon_with_no_marker(place: Place, isolation: Isolation) -> None:
    """A daemon that threw its environment away ends with the namespace all the same."""
    payload = place.payload(
        "env -i setsid sh -c 'trap \"\" TERM HUP INT; while :; do echo alive; sleep 0.1; done' "
        ">>alive 2>&1 </dev/null &\necho ready; exit 0"
    )
    launch = place.launch(isolation, payload)
    assert "ready" in await hostile(launch)
    assert survivors(launch.marker, read_record(launch.agent_dir)) == ()
    size = (
        (launch.workspace / "alive").stat().st_size if (launch.workspace / "alive").exists() else 0
    )
    await asyncio.sleep(0.4)
    assert size == (
        (launch.workspace / "alive").stat().st_size if (launch.workspace / "alive").exists() else 0
    )


async def test_hidden_inside_the_shown(place: Place, isolation: Isolation) -> None:
    """What is hidden stays hidden inside a folder that is shown, also around the workspace."""
    launch = place.launch(
        isolation,
        place.payload(
            f"cat {place.base}/larkline.toml {place.base}/homes/other-home; ls {place.base}; "
            f"echo x >{place.base}/homes/new; cat {place.base}/larkline.db; echo fine >file"
        ),
    )
    launch = Launch(
        **{name: getattr(launch, name) for name in launch.__slots__}
        | {
            "read_only": (place.base,),
            "hidden": (place.base / "larkline.toml", place.base / "homes"),
        }
    )
    said = await hostile(launch)
    assert said.count(SECRET) == 1  # the database was not among the hidden
    assert "larkline.toml" in said
    assert (launch.workspace / "file").read_text() == "fine\n"
    assert not (place.base / "homes" / "new").exists()


async def test_probe_tells_why(place: Place) -> None:
    """Where bubblewrap does not work the level says so, in its own words and with its holes."""
    broken = place.payload("echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    found = await probe("auto", place.agents, bwrap=broken)
    assert found.level == "none"
    assert Hole.GUARD_KILLED in found.holes
    assert Hole.ALL_FILES in found.holes
    assert set(found.refusals) == {"bwrap: No permissions to create new namespace"}


@pytest.mark.parametrize(
    ("refused", "unshare_user", "own_proc", "wanted"),
    [
        ("*' --proc '*", False, False, "full"),
        ("*' --unshare-ipc '*", False, True, "tree-only"),
    ],
)
async def test_probe_finds_the_next_best(
    place: Place, refused: str, unshare_user: bool, own_proc: bool, wanted: str
) -> None:
    """The first form that works is taken: without an own /proc, then with all files in view."""
    real = await level("full", place.agents)
    picky = place.payload(f'case " $* " in {refused}) exit 1;; esac; exec {real.bwrap} "$@"')
    found = await probe("auto", place.agents, bwrap=picky)
    assert (found.level, found.unshare_user, found.own_proc) == (wanted, unshare_user, own_proc)


async def test_probe_does_not_believe(place: Place) -> None:
    """A bubblewrap that only pretends, hiding no files and ending no daemon, does not count."""
    pretender = place.payload('while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
    found = await probe("auto", place.agents, bwrap=pretender)
    assert found.level == "none"
    assert "bwrap: files outside can be seen" in found.refusals
    assert "bwrap: a daemon survives" in found.refusals


async def test_probe_wants_no_more(place: Place) -> None:
    """`tree-only` is not exceeded, and `full` does not fall back to it."""
    assert (await probe("tree-only", place.agents)).level == "tree-only"
    real = await level("full", place.agents)
    picky = place.payload(f'case "$*" in *--unshare-ipc*) exit 1;; esac; exec {real.bwrap} "$@"')
    assert (await probe("full", place.agents, bwrap=picky)).level == "none"
