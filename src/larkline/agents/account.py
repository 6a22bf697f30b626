"""What the broker knows about one agent and its current turn."""

import asyncio
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from larkline.agents.meter import added
from larkline.domain.model import Usage
from larkline.ports import ModelFailure

Cut = Literal["", "silent", "upstream", "unreachable", "client"]
_STATUSES_KEPT = 100
_CUTS_BORNE = 1  # in a row: the CLI's own second try is cheap, its tenth is not
_STATUS_OF_ERROR = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


@dataclass(frozen=True, slots=True)
class TurnReport:
    """What the model calls of one turn came to.

    `statuses` are the upstream's answers in order (the newest 100), `failure` the last call's
    failure (None once a later call went well), `first_byte_after` seconds from the turn's start to
    the first byte of a body, `cut` why a call ended early the last time one did.
    """

    requests: int = 0
    statuses: tuple[int, ...] = ()
    failure: ModelFailure | None = None
    usage: Usage = field(default_factory=Usage)
    first_byte_after: float | None = None
    cut: Cut = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to every further request of a turn that is over for us."""

    status: int
    message: str


class Tally:
    """The model calls of one turn being counted; a late call of an older turn keeps its own."""

    def __init__(self) -> None:
        self.verdict: Verdict | None = None
        self._began = asyncio.get_running_loop().time()
        self._requests = 0
        self._statuses: list[int] = []
        self._failure: ModelFailure | None = None
        self._usage = Usage()
        self._first_byte_after: float | None = None
        self._cut: Cut = ""
        self._cuts_in_a_row = 0

    def report(self) -> TurnReport:
        """The turn so far."""
        return TurnReport(
            requests=self._requests,
            statuses=tuple(self._statuses),
            failure=self._failure,
            usage=self._usage,
            first_byte_after=self._first_byte_after,
            cut=self._cut,
        )

    def asked(self) -> None:
        """A request of the agent arrived."""
        self._requests += 1

    def answered(self, status: int, retry_after: str | None) -> None:
        """The upstream's headers arrived."""
        self._statuses = [*self._statuses[1 - _STATUSES_KEPT :], status]
        if status >= 300:
            self._failure = ModelFailure(status, seconds_to_wait(retry_after))

    def first_byte(self) -> None:
        """A body's first byte arrived."""
        if self._first_byte_after is None:
            self._first_byte_after = asyncio.get_running_loop().time() - self._began

    def metered(self, usage: Usage) -> None:
        """A call used these tokens."""
        self._usage = added(self._usage, usage)

    def went_well(self) -> None:
        """A call's answer passed through whole."""
        self._failure = None
        self._cuts_in_a_row = 0

    def broke(self, error: str) -> None:
        """An answer carried an `error` event of this type."""
        self._failure = ModelFailure(_STATUS_OF_ERROR.get(error, 500), None)

    def unreachable(self) -> None:
        """The upstream gave no HTTP answer."""
        self._cut = "unreachable"
        self._failure = ModelFailure(None, None)

    def silent(self, verdict: Verdict) -> None:
        """The upstream sent nothing for too long; the turn is over."""
        self._cut = "silent"
        self._failure = ModelFailure(None, None, silent=True)
        self.verdict = verdict

    def cut_by_upstream(self, verdict: Verdict) -> None:
        """The upstream broke off in mid-stream; the turn is over if it did so before."""
        self._cut = "upstream"
        self._failure = ModelFailure(None, None)
        self._cuts_in_a_row += 1
        if self._cuts_in_a_row > _CUTS_BORNE:
            self.verdict = verdict

    def cut_by_client(self) -> None:
        """The agent went away, or did not read for too long."""
        self._cut = "client"


class Account:
    """One agent's standing with the broker; lives from `admit` to `dismiss`."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.tally = Tally()
        self.calls: set[asyncio.Task[object]] = set()

    def new_turn(self) -> None:
        """Begin counting anew; what an older turn's verdict forbade is allowed again."""
        self.tally = Tally()


def seconds_to_wait(retry_after: str | None) -> float | None:
    """A Retry-After header's value in seconds from now; None if it says nothing usable."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            moment = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
