"""What tools may do: narrow where allowed, wide where denied."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from larkline.agents.about import LONGEST_CHARS, about
from larkline.agents.permissions import Decision, Rule, Rules, decide, parse_rule
from larkline.domain.errors import SettingsError

WS = "/w/space"


def judge(
    tool: str,
    arguments: dict[str, Any],
    *,
    allow: tuple[str, ...] = (),
    deny: tuple[str, ...] = (),
    accept_edits: bool = True,
    links: dict[str, str] | None = None,
) -> Decision:
    rules = Rules(
        WS, tuple(map(parse_rule, allow)), tuple(map(parse_rule, deny)), accept_edits=accept_edits
    )

    def resolve(path: str) -> str:
        full = os.path.normpath(path)
        for link, target in (links or {}).items():
            if full == link or full.startswith(f"{link}/"):
                return os.path.normpath(target + full.removeprefix(link))
        return full

    return decide(tool, arguments, rules, resolve=resolve)


def test_rules_are_read_in_the_clis_syntax() -> None:
    """Tools, contents and wildcards; what is no rule names the setting."""
    assert parse_rule("Read") == Rule("Read")
    assert parse_rule(" Bash(git status:*) ") == Rule("Bash", "git status:*")
    assert parse_rule("Bash(*)") == Rule("Bash")
    assert parse_rule("mcp__x__*") == Rule("mcp__x__*")
    assert parse_rule("Bash(echo (a))") == Rule("Bash", "echo (a)")
    for wrong in ("", "Bash(", "Bash)x", "rm -rf", "(x)"):
        with pytest.raises(SettingsError, match=r"agent\.allow"):
            parse_rule(wrong)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/w/space/a.py", True),
        ("a.py", True),
        ("sub/../a.py", True),
        ("/w/space/../other/a.py", False),
        ("../a.py", False),
        ("/w/space2/a.py", False),
        ("/etc/passwd", False),
        ("/w/space/.git/hooks/pre-commit", False),
        ("sub/.git/config", False),
        (".claude/settings.json", False),
        (".mcp.json", False),
        ("/w/space/link/a.py", False),
        ("a\0b", False),
        ("", False),
    ],
)
def test_edits_stay_inside_the_workspace(path: str, allowed: bool) -> None:
    """Links and dots are followed first; files that make others run commands are refused."""
    for tool in ("Edit", "Write", "MultiEdit"):
        assert judge(tool, {"file_path": path}, links={"/w/space/link": "/etc"}).allowed is allowed
    assert judge(
        "NotebookEdit", {"notebook_path": path}, links={"/w/space/link": "/etc"}
    ).allowed is (allowed)


def test_a_workspace_behind_a_link_is_still_the_workspace() -> None:
    """Both sides are resolved."""
    links = {"/w": "/real/w"}
    assert judge("Write", {"file_path": "/w/space/x"}, links=links).allowed
    assert judge("Write", {"file_path": "/real/w/space/x"}, links=links).allowed


def test_edits_wait_for_a_rule_where_they_are_not_accepted() -> None:
    """Without `acceptEdits` only rules allow."""
    assert not judge("Edit", {"file_path": "a"}, accept_edits=False).allowed
    assert judge("Edit", {"file_path": "a"}, accept_edits=False, allow=("Edit",)).allowed
    assert judge(
        "Write", {"file_path": "src/a"}, accept_edits=False, allow=("Edit(src/**)",)
    ).allowed
    assert not judge(
        "Write", {"file_path": "lib/a"}, accept_edits=False, allow=("Edit(src/**)",)
    ).allowed


@pytest.mark.parametrize(
    ("rule", "command", "allowed"),
    [
        ("Bash(git status:*)", "git status", True),
        ("Bash(git status:*)", "git status -s", True),
        ("Bash(git status:*)", "git statusx", False),
        ("Bash(git status:*)", "git status; rm -rf /", False),
        ("Bash(git status:*)", "git status && rm x", False),
        ("Bash(git status:*)", "git status $(rm x)", False),
        ("Bash(git status:*)", "git status `rm x`", False),
        ("Bash(git status:*)", "git status > /etc/x", False),
        ("Bash(git status:*)", "git status\nrm x", False),
        ("Bash(git status:*)", "git status <(rm x)", False),
        ("Bash(git * main)", "git push main", True),
        ("Bash(git * main)", "git push main; x main", False),
        ("Bash(npm run *)", "npm run build", True),
        ("Bash(make test)", "make test", True),
        ("Bash(make test)", "make tests", False),
        ("Bash(a | b)", "a | b", True),
        ("Bash", "anything; goes", True),
    ],
)
def test_commands_are_allowed_only_as_a_whole(rule: str, command: str, allowed: bool) -> None:
    """An allow rule covers no command that may do more than its words say."""
    assert judge("Bash", {"command": command}, allow=(rule,)).allowed is allowed


@pytest.mark.parametrize(
    ("rule", "tool", "arguments"),
    [
        ("Bash(rm:*)", "Bash", {"command": "rm x"}),
        ("Bash(rm:*)", "Bash", {"command": "ls; rm x"}),
        ("Bash(rm:*)", "Bash", {"command": "ls $(rm x)"}),
        ("Bash(rm:*)", "Bash", {"command": "ls && rm x"}),
        ("Bash(rm:*)", "Bash", {"command": "(rm x)"}),
        ("Edit(secret/**)", "Write", {"file_path": "secret/a"}),
        ("Edit(.env)", "Write", {"file_path": "deep/.env"}),
        ("Read(//etc/**)", "Grep", {"path": "/etc/ssl"}),
        ("WebFetch(domain:evil.com)", "WebFetch", {"url": "https://u@evil.com:1/x"}),
        ("mcp__x", "mcp__x__do", {}),
        ("mcp__*", "mcp__y__do", {}),
        ("Task(anything)", "Task", {}),
    ],
)
def test_deny_wins(rule: str, tool: str, arguments: dict[str, str]) -> None:
    """A deny rule covers a call also in parts and over an allow rule, and says so."""
    decision = judge(tool, arguments, allow=(tool, "Bash", "Edit", "mcp__*"), deny=(rule,))
    assert not decision.allowed
    assert rule in decision.reason


def test_the_rest_is_denied_with_an_explanation() -> None:
    """The model learns what it cannot have and who can give it."""
    for tool in ("Bash", "WebFetch", "Task", "mcp__x__y"):
        decision = judge(tool, {"command": "ls", "url": "https://a.b/"})
        assert not decision.allowed
        assert tool in decision.reason
        assert "agent.allow" in decision.reason
    assert "answer" in judge("AskUserQuestion", {}).reason
    assert judge("WebFetch", {"url": "https://a.b/"}, allow=("WebFetch(domain:a.b)",)).allowed
    assert not judge("WebFetch", {"url": "https://a.b.c/"}, allow=("WebFetch(domain:a.b)",)).allowed
    assert judge("mcp__x__y", {}, allow=("mcp__x__*",)).allowed
    assert not judge("Task", {}, allow=("Task(anything)",)).allowed


@given(st.text(max_size=200), st.text(max_size=200))
def test_nothing_outside_is_ever_written(path: str, command: str) -> None:
    """Whatever the path: an accepted edit lies in the workspace; no rule, no command."""
    if judge("Write", {"file_path": path}).allowed:
        inside = os.path.normpath(str(Path(WS) / path))
        assert inside == WS or inside.startswith(f"{WS}/")
    assert not judge("Bash", {"command": command}).allowed


@given(
    st.dictionaries(
        st.sampled_from(["command", "file_path", "pattern", "path", "url"]), st.text(max_size=300)
    )
)
def test_about_is_one_short_line(arguments: dict[str, str]) -> None:
    """Whatever a tool is given: printable, one line, bounded."""
    line = about("Bash", arguments, WS)
    assert len(line) <= LONGEST_CHARS
    assert line.isprintable()


def test_about_tells_what_matters() -> None:
    """Commands by their first line, files as seen from the workspace, searches by pattern."""
    assert about("Bash", {"command": "  make\ntest"}, WS) == "make"
    assert about("Edit", {"file_path": f"{WS}/src/a.py"}, WS) == "src/a.py"
    assert about("Read", {"file_path": "/etc/hosts"}, WS) == "/etc/hosts"
    assert about("LS", {"path": WS}, WS) == "."
    assert about("Grep", {"pattern": "x+", "path": f"{WS}/src"}, WS) == "x+"
    assert about("Task", {"description": "look", "prompt": "long"}, WS) == "look"
    assert about("Other", {"n": 1}, WS) == ""
    assert about("Bash", {"command": "x" * 200}, WS) == "x" * 79 + "…"
