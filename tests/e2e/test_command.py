"""The command itself: wrong use, wrong settings, doctor, one process a directory."""

from __future__ import annotations

import asyncio

import pytest
from gateway_kit import KEY, Gateway

from larkline import __version__

BAD_UPSTREAM = '{"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": "x"}'
FINE = (
    "App: cli_",
    "Data directory",
    "Claude Code: 2.",
    "full: an agent",
    "Bot: larkline",
    "Long connection: websocket",
    "Scopes: all granted",
)


async def finished(gateway: Gateway, *arguments: str) -> tuple[int, str]:
    """Run a verb to its end; its exit code and everything it said."""
    gateway.log_path.unlink(missing_ok=True)
    process = await gateway.spawn(*arguments)
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode() + gateway.log_path.read_text()


async def test_version_and_help(gateway: Gateway) -> None:
    """Each verb explains itself."""
    assert await finished(gateway, "version") == (0, f"larkline {__version__}\n")
    for verb in ("run", "demo", "doctor", "migrate", "version"):
        code, said = await finished(gateway, verb, "--help")
        assert code == 0
        assert verb in said


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LARKLINE_LIMITS__MAX_CONCURENT", "3", "LARKLINE_LIMITS__MAX_CONCURRENT"),
        ("LARKLINE_FEISHU__APP_ID", "", "feishu.app_id"),
        ("LARKLINE_FEISHU__TRANSPORT", "webhook", "not there yet"),
        ("LARKLINE_AGENT__ALLOW", "Bash(", "Bash("),
        (
            "LARKLINE_AGENT__ENV",
            '{"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": "x"}',
            "BASE_URL",
        ),
        ("LARKLINE_WEB__HOST", "0.0.0.0", "web.token"),
    ],
)
async def test_wrong_settings_end_with_2(
    gateway: Gateway, name: str, value: str, says: str
) -> None:
    """Exit code 2, one line that names the key; no traceback."""
    gateway.settings[name] = value
    code, said = await finished(gateway, "run")
    assert (code, "Traceback" in said) == (2, False)
    assert says in said


async def test_people_are_not_mixed_without_isolation(gateway: Gateway) -> None:
    """Several people need isolated agents, or a setting that says so by name."""
    gateway.settings["LARKLINE_AGENT__ISOLATION"] = "tree-only"
    code, said = await finished(gateway, "run")
    assert code == 2
    assert "agent.unsafe_shared" in said


async def test_doctor_finds_all_well(gateway: Gateway) -> None:
    """Against a platform that works: exit 0, one line a check, no secret in it."""
    code, said = await finished(gateway, "doctor")
    assert code == 0, said
    for words in FINE:
        assert words in said
    assert KEY not in said
    assert gateway.platform.app.secret not in said


async def test_doctor_names_what_is_wrong(gateway: Gateway) -> None:
    """A wrong secret is a finding with the platform's reason, and exit code 1."""
    gateway.settings["LARKLINE_FEISHU__APP_SECRET"] = "wrong-secret-of-the-app"
    code, said = await finished(gateway, "doctor")
    assert code == 1
    assert "❌ Bot" in said
    assert "❌ Long connection" in said
    assert "wrong-secret-of-the-app" not in said
