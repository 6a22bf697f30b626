"""Every way in which tests can make the simulated platform misbehave."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

from larkline.sim.refusal import Refusal, card_refused

RestKind = Literal["refuse", "lose_answer", "hang", "delay", "garbage"]


@dataclass(slots=True)
class RestFault:
    """What happens to the next `times` calls whose name matches `api` (a shell pattern).

    `refuse` answers with `refusal` and applies nothing; `lose_answer` applies the call and then
    cuts the connection; `hang` applies it when `applied` and never answers; `delay` waits
    `seconds` before it applies; `garbage` applies it and answers with a page of HTML.
    """

    api: str
    kind: RestKind
    times: int = 1
    refusal: Refusal | None = None
    seconds: float = 0.0
    applied: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(RestKind):
            raise ValueError(f"a REST fault is one of {get_args(RestKind)}, not {self.kind!r}")


@dataclass(frozen=True, slots=True)
class HandshakeRefusal:
    """A refused websocket handshake, as the three headers carry it."""

    status: int
    msg: str
    autherrcode: int | None = None


@dataclass(slots=True)
class Faults:
    """The switches; all off at first. Durations are seconds of real time."""

    rest: list[RestFault] = field(default_factory=list)
    rest_latency: float = 0.0
    """Added before each REST call is looked at."""
    endpoint_codes: list[int] = field(default_factory=list)
    """Answered, first one first, by the next calls of the endpoint."""
    endpoint_status: list[int] = field(default_factory=list)
    """HTTP statuses with which the next calls of the endpoint fail."""
    endpoint_hangs: int = 0
    """So many next calls of the endpoint never get an answer."""
    handshakes: list[HandshakeRefusal] = field(default_factory=list)
    """Refusals for the next handshakes."""
    deaf: bool = False
    """Connections are accepted and read; nothing is ever sent on them, not even a pong."""
    mute_pongs: bool = False
    """Events come, pongs don't."""
    ack_delay: float = 0.0
    """Acks count as having arrived so much later."""
    ignore_acks: int = 0
    """So many next acks are treated as never received."""
    duplicates: int = 0
    """Each event is pushed so many times more, at once."""
    fragment_bytes: int = 0
    """Payloads above this are cut into frames of this size; 0: never cut."""
    events_latency: float = 0.0
    """On the way of each frame to the client; frames travel side by side."""

    def refuse(
        self,
        api: str,
        code: int,
        msg: str = "refused by a fault",
        *,
        status: int = 400,
        times: int = 1,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Refuse the next `times` calls with `code`."""
        refusal = Refusal(code, msg, status, headers or {})
        self.rest.append(RestFault(api, "refuse", times, refusal))

    def rate_limit(self, api: str, *, reset: int = 1, times: int = 1, status: int = 429) -> None:
        """Answer 99991400 and say to wait `reset` seconds."""
        headers = {"x-ogw-ratelimit-limit": "50", "x-ogw-ratelimit-reset": str(reset)}
        self.refuse(
            api,
            99991400,
            "request trigger frequency limit",
            status=status,
            times=times,
            headers=headers,
        )

    def server_error(self, api: str, *, status: int = 502, times: int = 1) -> None:
        """Answer like a broken gateway: HTTP `status` and no JSON."""
        self.rest.append(RestFault(api, "refuse", times, Refusal(0, "", status)))

    def lose_answer(self, api: str, *, times: int = 1) -> None:
        """Apply the call, then cut the connection before the answer."""
        self.rest.append(RestFault(api, "lose_answer", times))

    def hang(self, api: str, *, times: int = 1, applied: bool = True) -> None:
        """Never answer."""
        self.rest.append(RestFault(api, "hang", times, applied=applied))

    def delay(self, api: str, seconds: float, *, times: int = 1) -> None:
        """Answer late."""
        self.rest.append(RestFault(api, "delay", times, seconds=seconds))

    def garbage(self, api: str, *, times: int = 1) -> None:
        """Apply the call and answer with something that is no JSON."""
        self.rest.append(RestFault(api, "garbage", times))

    def refuse_cards(self, number: int = 11310, *, times: int = 1) -> None:
        """Refuse the next `times` cards, whether they come as a message, patch or entity."""
        refusal = card_refused(number, "refused by a fault")
        self.rest.append(RestFault("card-content", "refuse", times, refusal))

    def take(self, api: str) -> RestFault | None:
        """The fault for this call, if any; uses one of its `times`."""
        for fault in self.rest:
            if fnmatchcase(api, fault.api):
                fault.times -= 1
                if fault.times <= 0:
                    self.rest.remove(fault)
                return fault
        return None

    def clear(self) -> None:
        """Behave again."""
        fresh = Faults()
        for name in Faults.__slots__:
            setattr(self, name, getattr(fresh, name))
