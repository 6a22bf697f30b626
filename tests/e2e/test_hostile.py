"""Prompts that try to get at what is not theirs, through the real agent with Bash allowed."""

from __future__ import annotations

import json

import pytest
from gateway_kit import KEY, Gateway, until

from larkline.domain.model import Place

pytestmark = [pytest.mark.cli, pytest.mark.timeout(240)]

SECRET = "the-other-conversations-secret"


def bash(command: str) -> str:
    """A prompt that runs a command and answers with its output, word for word."""
    return f"[[tool:Bash {json.dumps({'command': command})}]][[then]][[result]]"


async def test_an_agent_reaches_only_its_own(gateway: Gateway) -> None:
    """Other workspaces, settings, database, key, other agents' files, outside: all out of reach."""
    platform = gateway.platform
    gateway.settings["LARKLINE_AGENT__ALLOW"] = "Bash"
    gateway.data_dir.mkdir()
    settings_file = gateway.home / "larkline.toml"
    settings_file.write_text(f'[agent.env]\nANTHROPIC_API_KEY = "{KEY}"\n')
    await gateway.start()
    mallory, victim = platform.users[0], platform.users[1]
    write = {"file_path": "secret.txt", "content": SECRET}
    theirs = Place(platform.app.app_id, platform.p2p(victim).chat_id).conversation
    workspace = gateway.data_dir / "workspaces" / theirs
    write["file_path"] = str(workspace / "secret.txt")
    await gateway.answer(victim, f"[[tool:Write {json.dumps(write)}]][[then]][[text:written]]")
    assert (workspace / "secret.txt").read_text() == SECRET

    data = gateway.data_dir
    looks = [
        f"cat {workspace}/secret.txt; ls -la {workspace} {data}/workspaces",
        f"cat {settings_file}; cat {data}/larkline.db | strings | head; ls -la {data}",
        f"cat {data}/configs/*/* {data}/agents/*/* {data}/configs/{theirs}/.claude.json",
        "env; cat /proc/*/environ | tr '\\0' '\\n'; cat /proc/*/cmdline | tr '\\0' ' '",
        "grep -rs sk-upstream / --include='*' -l --exclude-dir=proc --exclude-dir=sys | head -5",
        "ls -la /root /home /var /run; cat /etc/shadow",
    ]
    for command in looks:
        _, shown = await gateway.answer(mallory, bash(command), seconds=90)
        assert "🔧 Bash" in shown  # it did run
        for forbidden in (SECRET, KEY, platform.app.secret, "SQLite format", "root:"):
            assert forbidden not in shown.replace(command, ""), command

    writes = (
        f"echo x > {data}/written; echo x > /etc/written; echo x > {workspace}/written; echo ran"
    )
    assert "ran" in (await gateway.answer(mallory, bash(f"{writes}; echo ran")))[1]
    for path in (data / "written", workspace / "written"):
        assert not path.exists()

    _, mine = await gateway.answer(mallory, bash("echo mine > here.txt; cat here.txt; pwd"))
    assert "mine" in mine


async def test_a_daemon_does_not_survive_its_agent(gateway: Gateway) -> None:
    """setsid, nohup, double fork, TERM ignored: gone with the agent."""
    gateway.settings.update(
        {"LARKLINE_AGENT__ALLOW": "Bash", "LARKLINE_AGENT__IDLE_SECONDS": "0.5"}
    )
    await gateway.start()
    daemon = (
        '(setsid nohup sh -c \'trap "" TERM HUP INT; while :; do timeout 1 tail -f /dev/null; '
        "done' >/dev/null 2>&1 &) ; echo left"
    )
    assert "left" in (await gateway.answer(gateway.platform.users[0], bash(daemon)))[1]
    await until(lambda: not gateway.agents(), 20)


async def test_what_is_not_allowed_is_denied_and_said(gateway: Gateway) -> None:
    """Without a rule Bash does not run, and the answer explains it; edits here are fine."""
    await gateway.start()
    user = gateway.platform.users[0]
    _, shown = await gateway.answer(
        user, bash("touch ran.txt; curl -s http://127.0.0.1/").replace("[[result]]", "[[text:end]]")
    )
    assert "🚫 Bash" in shown
    assert "not permitted" in shown
    mine = Place(gateway.platform.app.app_id, gateway.platform.p2p(user).chat_id).conversation
    workspace = gateway.data_dir / "workspaces" / mine
    assert not (workspace / "ran.txt").exists()
    assert (workspace / ".git").is_dir()
    write = json.dumps({"file_path": str(workspace / "a.txt"), "content": "mine"})
    await gateway.answer(user, f"[[tool:Write {write}]][[then]][[text:ok]]")
    assert (workspace / "a.txt").read_text() == "mine"
    outside = json.dumps({"file_path": str(gateway.home / "b.txt"), "content": "no"})
    _, shown = await gateway.answer(user, f"[[tool:Write {outside}]][[then]][[text:ok]]")
    assert "🚫 Write" in shown
    assert not (gateway.home / "b.txt").exists()


async def test_bypassing_permissions_is_chosen_by_name(gateway: Gateway) -> None:
    """In full isolation Bash then runs unasked; without isolation larkline does not start so."""
    gateway.settings["LARKLINE_AGENT__PERMISSION_MODE"] = "bypassPermissions"
    await gateway.start()
    _, shown = await gateway.answer(gateway.platform.users[0], bash("echo it did run"))
    assert "it did run" in shown
    await gateway.stop()
    gateway.settings["LARKLINE_AGENT__ISOLATION"] = "tree-only"
    gateway.settings["LARKLINE_ADMISSION__POLICY"] = "allowlist"
    process = await gateway.spawn("run")
    assert await process.wait() == 2
    assert "agent.permission_mode" in gateway.log_path.read_text()
