"""How results of the agent are read."""

import pytest

from larkline.domain.errors import StartFault
from larkline.domain.events import Ended
from larkline.domain.model import Ending, SessionId
from larkline.policy.failures import of_result, of_start

S = SessionId("s")


@pytest.mark.parametrize(
    ("reason", "status", "error", "ending"),
    [
        ("api_error", 401, "authentication_failed", Ending.AUTHENTICATION),
        ("api_error", None, "authentication_failed", Ending.AUTHENTICATION),
        ("api_error", 403, "authentication_failed", Ending.AUTHENTICATION),
        ("api_error", 402, "unknown", Ending.BILLING),
        ("api_error", 400, "billing_error", Ending.BILLING),
        ("api_error", 400, "unknown", Ending.BAD_REQUEST),
        ("prompt_too_long", 400, "invalid_request", Ending.TOO_LONG),
        ("blocking_limit", None, "invalid_request", Ending.TOO_LONG),
        ("api_error", 404, "model_not_found", Ending.NO_MODEL),
        ("image_error", 413, "invalid_request", Ending.BAD_REQUEST),
        ("api_error", 429, "rate_limit", Ending.RATE_LIMITED),
        ("api_error", 500, "server_error", Ending.UPSTREAM),
        ("api_error", 503, "server_error", Ending.UPSTREAM),
        ("api_error", 529, "server_error", Ending.OVERLOADED),
        ("api_error", None, "server_error", Ending.UNREACHABLE),
        ("max_turns", None, "", Ending.TURN_LIMIT),
        ("budget_exhausted", None, "", Ending.BUDGET),
        ("aborted_streaming", None, "", Ending.STOPPED),
        ("aborted_tools", None, "", Ending.STOPPED),
        ("", None, "", Ending.UPSTREAM),
    ],
)
def test_measured_failures(reason: str, status: int | None, error: str, ending: Ending) -> None:
    """Each shape the CLI was seen to give has its class, whatever the texts say."""
    result = Ended(
        S, True, "any text", terminal_reason=reason, api_error_status=status, error=error
    )
    assert of_result(result, visible=False, silent_upstream=False) is ending


def test_a_success_without_output_is_a_failure() -> None:
    """A result with nothing to show is never called an answer."""
    empty = Ended(S, False, " \n")
    assert of_result(empty, visible=False, silent_upstream=False) is Ending.NO_OUTPUT
    assert of_result(empty, visible=True, silent_upstream=False) is Ending.ANSWERED


def test_a_cut_silent_stream_is_called_silent() -> None:
    """What the broker saw wins over the status it answered with."""
    result = Ended(S, True, "", terminal_reason="api_error", api_error_status=504)
    assert of_result(result, visible=True, silent_upstream=True) is Ending.SILENT


@pytest.mark.parametrize("fault", list(StartFault))
def test_every_start_fault_has_an_ending(fault: StartFault) -> None:
    """No start fault is left unclassified."""
    assert isinstance(of_start(fault), Ending)
