"""Commands in the chat."""

import pytest

from larkline.stages.commands import Command, parse


@pytest.mark.parametrize(
    ("said", "command", "rest"),
    [
        ("/new", Command.NEW, ""),
        ("/NEW", Command.NEW, ""),
        (" /new  please tidy up\nall of it ", Command.NEW, "please tidy up\nall of it"),
        ("／新会话", Command.NEW, ""),
        ("/新对话 写个脚本", Command.NEW, "写个脚本"),
        ("/stop", Command.STOP, ""),
        ("/停止", Command.STOP, ""),
        ("/status", Command.STATUS, ""),
        ("/帮助", Command.HELP, ""),
        ("/foo bar", None, "bar"),
    ],
)
def test_commands_are_recognised(said: str, command: Command | None, rest: str) -> None:
    """By name and alias, with a plain or full-width slash, in any case."""
    spoken = parse(said)
    assert spoken is not None
    assert (spoken.command, spoken.rest) == (command, rest)


@pytest.mark.parametrize(
    "said", ["", "/", "hello", "/etc/hosts is what?", "/usr/bin", "say /new", "//new", "/a1"]
)
def test_ordinary_text_is_no_command(said: str) -> None:
    """Paths and slashes inside a text stay text."""
    assert parse(said) is None
