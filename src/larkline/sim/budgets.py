"""The platform's rate limits as sliding windows: a call over a limit is refused, not counted."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable

from larkline.sim.clock import SimClock
from larkline.sim.refusal import Refusal
from larkline.sim.variants import Variants

API_PER_SECOND = 50
API_PER_MINUTE = 1000
CHAT_PER_SECOND = 5
PATCH_PER_SECOND = 5
CARD_PER_SECOND = 10


class Budgets:
    """Counts calls per key; `enforced` false lets everything pass (still counted)."""

    def __init__(self, clock: SimClock, variants: Variants) -> None:
        self.enforced = True
        self._clock = clock
        self._variants = variants
        self._seen: dict[Hashable, deque[float]] = {}

    def api(self, app_id: str, api: str) -> None:
        """One call of `api` by the app: 50 a second and 1,000 a minute.

        Raises:
            Refusal: 99991400 with the seconds to wait in `x-ogw-ratelimit-reset`.
        """
        for count, window in ((API_PER_SECOND, 1.0), (API_PER_MINUTE, 60.0)):
            wait = self._wait(("api", app_id, api, window), count, window)
            if wait > 0:
                raise self.too_many(wait, count)
        self._note(("api", app_id, api, 1.0), 1.0)
        self._note(("api", app_id, api, 60.0), 60.0)

    def chat(self, chat_id: str) -> None:
        """One message into a chat: 5 a second, all bots together.

        Raises:
            Refusal: 230020.
        """
        self._frequency(("chat", chat_id), CHAT_PER_SECOND)

    def patch(self, message_id: str) -> None:
        """One PATCH of a message: 5 a second.

        Raises:
            Refusal: 230020.
        """
        self._frequency(("patch", message_id), PATCH_PER_SECOND)

    def card(self, card_id: str) -> None:
        """One operation on a card entity: 10 a second.

        Raises:
            Refusal: the code that `Variants.card_limit_code` names.
        """
        wait = self._wait(("card", card_id), CARD_PER_SECOND, 1.0)
        if wait > 0:
            refusal = self.too_many(wait, CARD_PER_SECOND)
            refusal.code = self._variants.card_limit_code
            raise refusal
        self._note(("card", card_id), 1.0)

    def too_many(self, wait: float, limit: int) -> Refusal:
        """The gateway's answer to too many calls."""
        return Refusal(
            99991400,
            "request trigger frequency limit",
            self._variants.rate_limit_status,
            {
                "x-ogw-ratelimit-limit": str(limit),
                "x-ogw-ratelimit-reset": str(max(1, math.ceil(wait))),
            },
        )

    def _frequency(self, key: Hashable, count: int) -> None:
        if self._wait(key, count, 1.0) > 0:
            raise Refusal(230020, "This operation triggers the frequency limit, ext=")
        self._note(key, 1.0)

    def _wait(self, key: Hashable, count: int, window: float) -> float:
        """Seconds until one more fits; 0 when it fits now."""
        if not self.enforced:
            return 0.0
        seen = self._seen.get(key)
        if seen is None:
            return 0.0
        now = self._clock.now()
        while seen and seen[0] <= now - window:
            seen.popleft()
        return seen[0] + window - now if len(seen) >= count else 0.0

    def _note(self, key: Hashable, window: float) -> None:
        now = self._clock.now()
        seen = self._seen.setdefault(key, deque())
        while seen and seen[0] <= now - window:
            seen.popleft()
        seen.append(now)
