"""How the SDK starts an agent, and what a start that failed means.

Importing this module loads the SDK, as `claude_session` does.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from claude_agent_sdk import (
    CanUseToolShadowedWarning,
    ClaudeAgentOptions,
    CLINotFoundError,
    ProcessError,
    ResultError,
)

from larkline.agents.ending import read_ended
from larkline.domain.errors import AgentStartError, StartFault

if TYPE_CHECKING:
    from claude_agent_sdk import CanUseTool, SessionStore

    from larkline.agents.claude import Order
    from larkline.agents.transcripts import Mirror

# Allow rules go to the CLI on purpose: what they cover never comes to us.
warnings.filterwarnings("ignore", category=CanUseToolShadowedWarning)

_SECRET = re.compile(r"(?i)(sk-|larkline-|bearer |key[=: ]+|token[=: ]+)\S+")


def options(
    order: Order,
    wrapper: Path,
    mirror: Mirror,
    may_use: CanUseTool,
    hear: Callable[[str], None],
) -> ClaudeAgentOptions:
    """What the SDK is told; `hear` gets the lines of stderr."""
    settings, launch = order.settings, order.launch
    return ClaudeAgentOptions(
        cli_path=wrapper,
        cwd=launch.workspace,
        env=launch.sdk_env(),
        system_prompt={"type": "preset", "preset": "claude_code"},
        model=settings.model or None,
        permission_mode=settings.permission_mode,
        allowed_tools=list(settings.allow),
        disallowed_tools=list(settings.deny),
        can_use_tool=may_use,
        setting_sources=list(settings.setting_sources),
        strict_mcp_config=True,
        include_partial_messages=True,
        verbatim_prompts=True,
        max_buffer_size=settings.line_bytes,
        resume=order.session if order.resumes else None,
        session_id=None if order.resumes else order.session,
        session_store=cast("SessionStore", mirror),
        session_store_flush="eager",
        stderr=hear,
    )


def start_error(exc: Exception, order: Order, stderr: Sequence[str]) -> AgentStartError:
    """Why it did not start, as far as fields tell. `stderr`: its last lines."""
    launch = order.launch
    if isinstance(exc, CLINotFoundError):
        return AgentStartError(StartFault.NO_CLI, f"no CLI at {launch.cli_path}")
    if not launch.workspace.is_dir():
        return AgentStartError(StartFault.NO_WORKSPACE, f"no folder {launch.workspace}")
    if (
        order.resumes
        and isinstance(exc, ResultError)
        and exc.subtype == "error_during_execution"
        and not exc.data.get("num_turns")
    ):
        return AgentStartError(
            StartFault.RESUME_FAILED, f"session {order.session} could not be resumed"
        )
    code = exc.exit_code if isinstance(exc, ProcessError) else None
    told = read_ended(launch.agent_dir)
    how = told.reason.value if told is not None else "unknown"
    # Nothing of a user has reached the process yet, so its words may be shown.
    said = _SECRET.sub(r"\1***", stderr[-1])[:200] if stderr else "nothing"
    return AgentStartError(
        StartFault.EXITED, f"{how}, code {code} ({type(exc).__name__}); it said: {said}"
    )
