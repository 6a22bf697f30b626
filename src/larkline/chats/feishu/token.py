"""The app's tenant access token: fetched by one at a time, renewed early, kept while it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from larkline.domain.errors import Transient

log = structlog.get_logger()

RENEW_BEFORE = 600.0
"""Seconds before its end a token is renewed; the old one stays valid meanwhile."""


@dataclass(frozen=True, slots=True)
class Token:
    """`renew_at` and `ends_at` are monotonic seconds."""

    secret: str
    renew_at: float
    ends_at: float


def granted(secret: str, seconds: float, now: float) -> Token:
    """A token that lives for `seconds`; a short-lived one is renewed at half of its life."""
    return Token(secret, now + max(seconds / 2, seconds - RENEW_BEFORE), now + seconds)


class TenantToken:
    """The current token. `fetch` gets a new one or raises Transient."""

    def __init__(
        self, fetch: Callable[[], Awaitable[Token]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token: Token | None = None

    async def current(self) -> Token:
        """A token to use now. A renewal that fails leaves the old one in use to its end.

        Raises: Transient.
        """
        token = self._token
        if token is not None and self._clock() < token.renew_at:
            return token
        async with self._lock:
            if self._token is not token and self._token is not None:
                return self._token
            try:
                self._token = await self._fetch()
            except Transient as exc:
                if token is None or self._clock() >= token.ends_at:
                    raise
                log.warning("token not renewed, the old one is still valid", error=str(exc))
                # Asked again a moment later, not with every call.
                later = min(self._clock() + 30.0, token.ends_at)
                self._token = Token(token.secret, later, token.ends_at)
            return self._token

    async def instead_of(self, refused: Token) -> Token:
        """A token other than `refused`, which the platform no longer takes.

        Many callers with the same refused token cause one fetch. Raises: Transient.
        """
        async with self._lock:
            if self._token is None or self._token.secret == refused.secret:
                self._token = None
                self._token = await self._fetch()
            return self._token
