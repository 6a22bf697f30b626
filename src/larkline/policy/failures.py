"""How a turn ended, from structured fields only: never from message text, subtype or exit code.

The order is the one the CLI's own behaviour asks for (measured on 2.1.330): what the broker saw on
the wire, then `terminal_reason`, then the HTTP status, then the class of the last message.
"""

from __future__ import annotations

from larkline.domain.errors import StartFault
from larkline.domain.events import Ended
from larkline.domain.model import Ending

# `terminal_reason` values that decide alone; the others leave it to status and class.
_BY_REASON = {
    "aborted_streaming": Ending.STOPPED,
    "aborted_tools": Ending.STOPPED,
    "prompt_too_long": Ending.TOO_LONG,
    "blocking_limit": Ending.TOO_LONG,
    "max_turns": Ending.TURN_LIMIT,
    "budget_exhausted": Ending.BUDGET,
    "image_error": Ending.BAD_REQUEST,
}

_BY_CLASS = {
    "authentication_failed": Ending.AUTHENTICATION,
    "oauth_org_not_allowed": Ending.AUTHENTICATION,
    "account_on_hold": Ending.AUTHENTICATION,
    "verification_required": Ending.AUTHENTICATION,
    "cloud_credential_error": Ending.AUTHENTICATION,
    "billing_error": Ending.BILLING,
    "rate_limit": Ending.RATE_LIMITED,
    "overloaded": Ending.OVERLOADED,
    "model_not_found": Ending.NO_MODEL,
    "invalid_request": Ending.BAD_REQUEST,
}

_BY_STATUS = {
    401: Ending.AUTHENTICATION,
    402: Ending.BILLING,
    403: Ending.AUTHENTICATION,
    404: Ending.NO_MODEL,
    408: Ending.UPSTREAM,
    409: Ending.UPSTREAM,
    429: Ending.RATE_LIMITED,
    529: Ending.OVERLOADED,
}

_BY_FAULT = {
    StartFault.RESUME_FAILED: Ending.RESUME_FAILED,
    StartFault.NO_CLI: Ending.AGENT_UNSTARTABLE,
    StartFault.NO_WORKSPACE: Ending.AGENT_UNSTARTABLE,
    StartFault.EXITED: Ending.AGENT_UNSTARTABLE,
    StartFault.TIMED_OUT: Ending.AGENT_UNSTARTABLE,
}


def of_start(fault: StartFault) -> Ending:
    """The ending of a turn whose agent could not be started."""
    return _BY_FAULT[fault]


def of_result(result: Ended, *, visible: bool, silent_upstream: bool) -> Ending:
    """The ending that the agent's own result means.

    `visible`: the user saw some text or tool. `silent_upstream`: the broker cut a model stream
    that had gone silent during this turn.
    """
    if not result.is_error:
        # A success with nothing to show is a failure (a resume was once seen to end so).
        return Ending.ANSWERED if visible or result.text.strip() else Ending.NO_OUTPUT
    if result.terminal_reason in _BY_REASON:
        return _BY_REASON[result.terminal_reason]
    if silent_upstream:
        return Ending.SILENT
    if result.error == "billing_error":  # arrives with status 400
        return Ending.BILLING
    status = result.api_error_status
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status is not None and status >= 500:
        return Ending.UPSTREAM
    if status is not None and status >= 400:
        return Ending.BAD_REQUEST
    if result.error in _BY_CLASS:
        return _BY_CLASS[result.error]
    if result.terminal_reason in ("api_error", "model_error"):
        return Ending.UNREACHABLE
    return Ending.UPSTREAM
