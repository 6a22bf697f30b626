"""When to ping, when a silent connection is dead, when to try again. Pure: no clock, no chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from larkline.chats.feishu.settings import Bounds


@dataclass(frozen=True, slots=True)
class Cadence:
    """What the server asked for, inside our bounds; the defaults are the official SDKs'."""

    ping: float = 120.0
    interval: float = 120.0
    nonce: float = 30.0


def bounded(cadence: Cadence, bounds: Bounds) -> Cadence:
    """The cadence with every value clamped."""
    return Cadence(
        ping=_clamp(cadence.ping, bounds.ping),
        interval=_clamp(cadence.interval, bounds.interval),
        nonce=_clamp(cadence.nonce, bounds.nonce),
    )


def configured(cadence: Cadence, config: object, bounds: Bounds) -> Cadence:
    """The cadence after a ClientConfig; what is missing in it or no number leaves it as it is.

    `ReconnectCount` is ignored on purpose: we never give up.
    """
    if not isinstance(config, Mapping):
        return cadence
    return bounded(
        Cadence(
            ping=_number(config.get("PingInterval"), cadence.ping),
            interval=_number(config.get("ReconnectInterval"), cadence.interval),
            nonce=_number(config.get("ReconnectNonce"), cadence.nonce),
        ),
        bounds,
    )


def deaf_at(heard: float, cadence: Cadence, bounds: Bounds) -> float:
    """When a connection that last gave a frame at `heard` counts as dead.

    Each of our pings is answered, so two unanswered ones and some slack prove it.
    """
    return heard + 2 * cadence.ping + bounds.slack


def failures_after(failures: int, lived: float, bounds: Bounds) -> int:
    """The number of tries in a row that came to nothing, after a connection that lived so long."""
    return 0 if lived >= bounds.steady else failures + 1


def next_delay(failures: int, cadence: Cadence, bounds: Bounds, chance: float) -> float:
    """Seconds to wait before the next try; `chance` is uniform in [0, 1).

    The loss of a steady connection (0 failures) hits many clients at the same moment: they spread
    over the server's nonce. Then doubling up to the server's interval, each between half and full.
    """
    if failures == 0:
        return chance * cadence.nonce
    grown = bounds.first_retry * 2.0 ** min(failures - 1, 16)
    return min(grown, cadence.interval) * (0.5 + chance / 2)


def _number(value: object, otherwise: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return otherwise
    # Integers of any size fit a comparison, but not a float.
    return float(max(-1e9, min(1e9, value))) if not math.isnan(value) else otherwise


def _clamp(value: float, limits: tuple[float, float]) -> float:
    return max(limits[0], min(limits[1], value))
