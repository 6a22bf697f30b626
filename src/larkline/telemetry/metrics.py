"""The instruments, once: names, units and labels by the Prometheus conventions."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from larkline.domain.model import Ending

_ACK_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0)
_TURN_SECONDS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600)
_CALL_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """All instruments of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.turns = Counter(
            "larkline_turns", "Turns ended, by how.", ["ending"], registry=self.registry
        )
        self.turn_seconds = Histogram(
            "larkline_turn_duration_seconds",
            "From the start of a turn to its stored outcome.",
            buckets=_TURN_SECONDS,
            registry=self.registry,
        )
        self.first_text_seconds = Histogram(
            "larkline_first_text_seconds",
            "From the start of a turn to the first text of the agent.",
            buckets=_CALL_SECONDS,
            registry=self.registry,
        )
        self.ack_seconds = Histogram(
            "larkline_event_ack_seconds",
            "From an event's arrival to its acknowledgement.",
            buckets=_ACK_SECONDS,
            registry=self.registry,
        )
        self.calls = Counter(
            "larkline_chat_calls",
            "Calls to the chat platform, by API and answer code.",
            ["api", "code"],
            registry=self.registry,
        )
        self.call_seconds = Histogram(
            "larkline_chat_call_seconds",
            "Duration of calls to the chat platform.",
            ["api"],
            buckets=_CALL_SECONDS,
            registry=self.registry,
        )
        self.deliveries = Counter(
            "larkline_deliveries",
            "Replies, by what became of them.",
            ["end"],
            registry=self.registry,
        )
        self.queued = Gauge("larkline_turns_queued", "Turns that wait.", registry=self.registry)
        for ending in Ending:  # a counter that appears with its first event hides that event
            self.turns.labels(ending=ending.value)

    def gauge(self, name: str, words: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is scraped."""
        Gauge(name, words, registry=self.registry).set_function(read)

    def observe_call(self, api: str, code: int, seconds: float) -> None:
        """Count a call to the chat platform; code -1: no answer."""
        self.calls.labels(api=api, code=str(code)).inc()
        self.call_seconds.labels(api=api).observe(seconds)

    def observe_ack(self, seconds: float) -> None:
        """Count an acknowledged event."""
        self.ack_seconds.observe(seconds)

    def observe_turn(self, ending: Ending, seconds: float) -> None:
        """Count an ended turn."""
        self.turns.labels(ending=ending.value).inc()
        self.turn_seconds.observe(seconds)

    def observe_delivery(self, end: str) -> None:
        """Count a reply by what became of it."""
        self.deliveries.labels(end=end).inc()

    def text(self) -> tuple[bytes, str]:
        """The exposition and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
