"""Keeps secrets out of log lines."""

from __future__ import annotations

from collections.abc import Iterable

from structlog.typing import EventDict, WrappedLogger

_SHORTEST = 6
"""Shorter values are no secrets worth hiding, and would blot out ordinary words."""


class Redaction:
    """A structlog processor that blots out known secrets wherever they appear."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(sorted({s for s in secrets if len(s) >= _SHORTEST}, key=len)[::-1])

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """The event without secrets in any text, however deep."""
        return {key: self._clean(value) for key, value in event.items()}

    def text(self, words: str) -> str:
        """The words without secrets."""
        for secret in self._secrets:
            if secret in words:
                words = words.replace(secret, "***")
        return words

    def _clean(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self._clean(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(inner) for inner in value]
        return value
