"""What the Feishu adapter needs to know, and the bounds it keeps towards the platform."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits in seconds unless said otherwise. Pairs are lowest and highest accepted values.

    `ping`, `interval` and `nonce` bound what the server's ClientConfig may ask for, so that a
    wrong one neither makes us hammer the platform nor stay away for ever.
    """

    ping: tuple[float, float] = (5.0, 120.0)
    interval: tuple[float, float] = (5.0, 60.0)
    nonce: tuple[float, float] = (1.0, 30.0)
    first_retry: float = 1.0
    slack: float = 5.0
    """Added to two ping intervals before a silent connection counts as dead."""
    steady: float = 60.0
    """A connection that lived this long starts the backoff anew when it is lost."""
    connect: float = 10.0
    """For the endpoint call, and again for the handshake."""
    send: float = 10.0
    """For one frame to leave us."""
    event: float = 10.0
    """For `receive` to store a message; the platform has given up waiting by then."""
    click: float = 2.5
    """For `receive` to answer a click; the platform shows an error after 3."""
    call: float = 10.0
    """For one REST call."""
    in_flight: int = 256
    """Events handled at once; further ones wait in the socket."""


@dataclass(frozen=True, slots=True)
class FeishuSettings:
    """One app. `domain` is a base URL without a path, as `https://open.feishu.cn`."""

    app_id: str
    app_secret: str = field(repr=False)
    domain: str = "https://open.feishu.cn"
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def base_url(self) -> str:
        """The domain without a slash at the end."""
        return self.domain.rstrip("/")
