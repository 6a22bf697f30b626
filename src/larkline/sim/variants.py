"""Behaviour of the real platform that is not documented well: each guess can be switched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True)
class Variants:
    """The platform as most probable; tests play the other readings.

    The facts behind each are marked as assumed or contradictory in public reports.
    """

    auth_error_status: int = 400
    """HTTP status of 9999166x answers."""
    cardkit_error_status: int = 400
    """HTTP status of CardKit refusals; 200 is reported as well."""
    rate_limit_status: int = 429
    """HTTP status of 99991400; some older APIs answer 400."""
    card_limit_code: int = 99991400
    """Code for more than 10 operations a second on one card."""
    wrong_secret_code: int = 1000040345
    """Endpoint's code for a wrong app secret."""
    handshake_status: int = 400
    """HTTP status of a refused websocket handshake."""
    connection_limit_at: Literal["endpoint", "handshake"] = "handshake"
    """Where the 51st connection is refused with 1000040350."""
    cardkit_uuid: Literal["idempotent", "conflict"] = "idempotent"
    """A CardKit call whose uuid was used already: answered as done, or refused with 200770."""
    cardkit_refusal: Literal["direct", "wrapped"] = "direct"
    """CardKit content refusals: the number itself as the code, or 230099 with ext."""
    retry_clicks: bool = False
    """Whether unanswered card clicks are pushed again."""
    pong_config: bool = True
    """Whether a pong carries the ClientConfig."""
    events_while_offline: Literal["retry", "lost"] = "retry"
    """An event with no connection open: the ladder tries again, or it is gone."""
