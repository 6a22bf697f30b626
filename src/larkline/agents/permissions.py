"""Whether a tool may run: decided for calls that the CLI's own rules left open.

The CLI gets the same allow and deny rules and knows them better (it takes shell commands apart),
so what arrives here matched no allow rule there. This is the second line: narrow where it allows,
wide where it denies, and with an explanation for the model, which passes it on to the user.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from larkline.domain.errors import SettingsError

_EDITS = frozenset({"Edit", "Write", "MultiEdit", "NotebookEdit"})
_READS = frozenset({"Read", "Grep", "Glob", "LS", "NotebookRead"})
_PATH_NAMES = ("file_path", "notebook_path", "path")
# Files that make other programs run something: git hooks, editor tasks, MCP servers, settings.
_TRAPS = frozenset(
    {".git", ".claude", ".mcp.json", ".vscode", ".idea", ".husky", ".gitmodules", ".envrc"}
)
_RULE = re.compile(r"(?P<tool>[A-Za-z_][\w*-]*)(?:\((?P<content>.*)\))?", re.DOTALL)
# With any of these a command may do more than its first words say.
_SHELL = re.compile(r"[;&|<>$`(){}\\\n\r]")
_COMMANDS = re.compile(r"[;&|\n\r(){}`]+|\$\(")


@dataclass(frozen=True, slots=True)
class Rule:
    """`Tool`, or `Tool(content)`; '' covers every use of the tool."""

    tool: str
    content: str = ""


def parse_rule(text: str) -> Rule:
    """A rule in the CLI's syntax: `Read`, `Bash(git status:*)`, `Edit(src/**)`, `mcp__x__*`.

    Raises: SettingsError.
    """
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise SettingsError(
            f"agent.allow / agent.deny: {text!r} is no tool rule; "
            'write for example "Read", "Bash(git status:*)" or "Edit(src/**)"'
        )
    content = (found["content"] or "").strip()
    return Rule(found["tool"], "" if content == "*" else content)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is allowed in one workspace, an absolute path. Deny wins."""

    workspace: str
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    accept_edits: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason` is for the model; '' when allowed."""

    allowed: bool
    reason: str = ""


_YES = Decision(allowed=True)


def decide(
    tool: str,
    arguments: Mapping[str, object],
    rules: Rules,
    *,
    resolve: Callable[[str], str] = os.path.realpath,
) -> Decision:
    """Whether this call may run. `resolve` follows symbolic links; pure but for that."""
    for rule in rules.deny:
        if _covers(rule, tool, arguments, rules.workspace, resolve, denying=True):
            return Decision(
                False, f"The operator's rules deny {tool} here: {_shown(rule)}. " + _TELL
            )
    for rule in rules.allow:
        if _covers(rule, tool, arguments, rules.workspace, resolve, denying=False):
            return _YES
    if tool == "AskUserQuestion":
        return Decision(
            False, "Nobody can answer a form in this chat. Ask in your answer, then end your turn."
        )
    if tool in _EDITS:
        return _edit(arguments, rules, resolve)
    return Decision(
        False,
        f"This use of {tool} is not among what the operator of this chat allows, and nobody can "
        "be asked for permission in mid-turn. " + _TELL,
    )


_TELL = (
    "Do not try to get around this. Go on without it if you can; otherwise say in your answer what "
    "you wanted to do and that the operator can allow it with a rule in `agent.allow`."
)


def _edit(arguments: Mapping[str, object], rules: Rules, resolve: Callable[[str], str]) -> Decision:
    path = _path(arguments, rules.workspace, resolve)
    if path is None:
        return Decision(False, "The call names no file. " + _TELL)
    inside = _relative(path, resolve(rules.workspace))
    if inside is None:
        return Decision(
            False,
            "Only files inside the workspace may be changed, and this one is outside. " + _TELL,
        )
    if _TRAPS.intersection(inside.split("/")):
        return Decision(False, "This file can make other programs run commands. " + _TELL)
    if not rules.accept_edits:
        return Decision(False, "Edits need a rule of the operator here. " + _TELL)
    return _YES


def _covers(
    rule: Rule,
    tool: str,
    arguments: Mapping[str, object],
    workspace: str,
    resolve: Callable[[str], str],
    *,
    denying: bool,
) -> bool:
    if not _names(rule.tool, tool):
        return False
    if not rule.content:
        return True
    if tool == "Bash":
        command = arguments.get("command")
        return isinstance(command, str) and _runs(rule.content, command, denying=denying)
    if tool in _EDITS or tool in _READS:
        path = _path(arguments, workspace, resolve)
        return path is not None and _lies(rule.content, path, workspace, resolve)
    if tool == "WebFetch":
        return _on_domain(rule.content, arguments.get("url"))
    # An unknown way to narrow a tool: a deny rule covers it, an allow rule does not.
    return denying


def _names(pattern: str, tool: str) -> bool:
    if pattern == tool or ("*" in pattern and fnmatch.fnmatchcase(tool, pattern)):
        return True
    if pattern.startswith("mcp__") and tool.startswith(f"{pattern}__"):
        return True
    return (pattern == "Edit" and tool in _EDITS) or (pattern == "Read" and tool in _READS)


def _runs(pattern: str, command: str, *, denying: bool) -> bool:
    if denying:
        parts = [each.strip() for each in _COMMANDS.split(command)]
        return any(_matches(pattern, each) for each in (command.strip(), *parts) if each)
    if _SHELL.search(command):
        return pattern == command.strip()
    return _matches(pattern, command.strip())


def _matches(pattern: str, command: str) -> bool:
    if pattern.endswith(":*"):
        start = pattern.removesuffix(":*")
        return command == start or command.startswith(f"{start} ")
    if "*" in pattern:
        words = ".*".join(re.escape(each) for each in pattern.split("*"))
        return re.fullmatch(words, command, re.DOTALL) is not None or (
            pattern.endswith(" *") and command == pattern.removesuffix(" *")
        )
    return command == pattern


def _path(
    arguments: Mapping[str, object], workspace: str, resolve: Callable[[str], str]
) -> str | None:
    for name in _PATH_NAMES:
        value = arguments.get(name)
        if isinstance(value, str) and value and "\0" not in value:
            return resolve(str(Path(workspace) / value))
    return None


def _relative(path: str, folder: str) -> str | None:
    if path == folder:
        return "."
    return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else None


def _lies(pattern: str, path: str, workspace: str, resolve: Callable[[str], str]) -> bool:
    """Whether a resolved path matches: `//abs`, `~/home`, else seen from the workspace."""
    if pattern.startswith("//"):
        seen: str | None = path
        pattern = pattern[1:]
    elif pattern.startswith("~/"):
        seen, pattern = path, str(Path(pattern).expanduser())
    else:
        seen = _relative(path, resolve(workspace))
        pattern = pattern.removeprefix("./").removeprefix("/")
    if seen is None:
        return False
    if "/" not in pattern and "**" not in pattern:
        pattern = f"**/{pattern}"  # as in .gitignore: a bare name lies anywhere
    return re.fullmatch(_glob(pattern), seen) is not None


def _glob(pattern: str) -> str:
    parts = []
    for each in re.split(r"(\*\*/|\*\*|\*|\?)", pattern):
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        parts.append(known.get(each) or re.escape(each))
    return "".join(parts) + "(?:/.*)?"


def _on_domain(content: str, url: object) -> bool:
    if not content.startswith("domain:") or not isinstance(url, str):
        return False
    found = re.match(r"https?://(?:[^/?#@]*@)?([^/:?#]+)", url, re.IGNORECASE)
    wanted = content.removeprefix("domain:").lower()
    if found is None:
        return False
    host = found[1].lower()
    if wanted.startswith("*."):
        return host.endswith(wanted[1:])
    return host == wanted


def _shown(rule: Rule) -> str:
    return f"{rule.tool}({rule.content})" if rule.content else rule.tool
