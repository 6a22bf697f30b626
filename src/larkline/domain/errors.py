"""Errors by what can be done about them: adapters translate foreign errors at the edge.

Messages carry codes and ids, never secrets or prompt text.
"""

from __future__ import annotations

from enum import StrEnum


class LarklineError(Exception):
    """Any error of ours."""


class SettingsError(LarklineError):
    """Wrong settings or wrong use: ends with exit code 2. The message names the key."""


class Transient(LarklineError):
    """The same call may succeed later. `retry_after`: seconds to wait at least, if known.

    `unsure`: the call may have taken effect although no answer came.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, unsure: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.unsure = unsure


class Permanent(LarklineError):
    """The same call will not succeed later. `code` is the platform's, 0 where it has none."""

    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class ContentRefused(Permanent):
    """The platform refuses this content in this form: a simpler form may pass."""


class TargetGone(Permanent):
    """The message to reply to is gone: a loose message into the chat may pass."""


class ChatGone(Permanent):
    """Nothing can be sent to this chat (the bot was removed, the chat dissolved)."""


class StreamClosed(Permanent):
    """The card no longer streams (the platform's ten minutes): a new card is needed."""


class SequenceStale(Permanent):
    """The card has seen a higher sequence: go on with a higher one."""


class StoreError(LarklineError):
    """The store could not do it: nothing of it was stored."""


class StoreLocked(SettingsError):
    """Another process holds the data directory. The message says which."""


class StartFault(StrEnum):
    """Why an agent could not be started."""

    RESUME_FAILED = "resume_failed"
    NO_CLI = "no_cli"
    NO_WORKSPACE = "no_workspace"
    EXITED = "exited"
    TIMED_OUT = "timed_out"


class AgentStartError(LarklineError):
    """An agent could not be started."""

    def __init__(self, fault: StartFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class AgentDiedError(LarklineError):
    """The agent process ended in mid-turn, or its stream did, without a result."""

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
