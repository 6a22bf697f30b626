"""The broker's pure parts: the stream meter, Retry-After, addresses and credentials."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from larkline.agents.account import seconds_to_wait
from larkline.agents.meter import AnswerMeter, StreamMeter
from larkline.agents.upstream import Upstream
from larkline.domain.model import Usage

START = {
    "type": "message_start",
    "message": {"usage": {"input_tokens": 7, "cache_read_input_tokens": 5, "output_tokens": 1}},
}
END = {"type": "message_delta", "usage": {"output_tokens": 42}}
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    b'"text":"event: ping message_start"}}\n\n'
)
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
METERED = Usage(input_tokens=7, output_tokens=42, cache_read_tokens=5)


def event(body: Mapping[str, object], *, named: bool = True) -> bytes:
    head = f"event: {body['type']}\n" if named else ""
    return f"{head}data: {json.dumps(body)}\n\n".encode()


WHOLE = event(START) + PING + DELTA * 3 + event(END) + STOP


@given(st.lists(st.integers(0, len(WHOLE)), max_size=30), st.booleans(), st.booleans())
@example([], False, False)
def test_meter_reads_the_same_however_it_is_cut(cuts: list[int], crlf: bool, bare: bool) -> None:
    """Chunk borders, line ends and missing event names change nothing of what is read."""
    stream = WHOLE
    if bare:
        stream = event(START, named=False) + DELTA + event(END, named=False) + STOP
    if crlf:
        stream = stream.replace(b"\n", b"\r\n")
    borders = sorted({0, *(c for c in cuts if c < len(stream)), len(stream)})
    meter = StreamMeter()
    lively = [meter.feed(stream[a:b]) for a, b in pairwise(borders)]
    assert meter.usage == METERED
    assert meter.whole
    assert any(lively)


@given(st.lists(st.integers(1, 200), max_size=20))
def test_pings_are_no_sign_of_life(cuts: list[int]) -> None:
    """Pings, comments and blank lines never count, in whatever pieces they come."""
    stream = (PING + b": keep-alive\n\n" + b"\n\n" + PING.replace(b"\n", b"\r\n")) * 2
    borders = sorted({0, *(c for c in cuts if c < len(stream)), len(stream)})
    meter = StreamMeter()
    for a, b in pairwise(borders):
        assert not meter.feed(stream[a:b])
    assert meter.feed(DELTA)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_meter_survives_anything(chunks: list[bytes]) -> None:
    """Garbage is counted as nothing and raises nothing."""
    meter, answer = StreamMeter(), AnswerMeter()
    for chunk in chunks:
        meter.feed(chunk)
        answer.feed(chunk)
    assert answer.usage.output_tokens >= 0


@pytest.mark.parametrize(
    "data",
    [
        b"event: message_start\ndata: []\n\n",
        b"event: message_delta\ndata: {not json\n\n",
        b'event: message_delta\ndata: {"usage":{"output_tokens":-5,"input_tokens":true}}\n\n',
        b'event: message_delta\ndata: {"usage":"lots"}\n\n',
        b'event: message_start\ndata: {"message":{"usage":{"output_tokens":"9"}}}\n\n',
    ],
)
def test_odd_figures_count_as_nothing(data: bytes) -> None:
    """A figure that is no natural number is not taken over."""
    meter = StreamMeter()
    assert meter.feed(data)
    assert meter.usage == Usage()


def test_error_events_are_named() -> None:
    """The type of an `error` event is kept."""
    meter = StreamMeter()
    meter.feed(event({"type": "error", "error": {"type": "overloaded_error"}}))
    assert (meter.error, meter.whole) == ("overloaded_error", False)


def test_giant_events_are_passed_over() -> None:
    """An endless event costs bounded memory, counts as life, and what follows is read again."""
    meter = StreamMeter()
    meter.feed(b"event: content_block_delta\ndata: ")
    for _ in range(64):
        assert meter.feed(b"x" * 65536)
    meter.feed(b"\n\n" + event(END))
    assert meter.usage.output_tokens == 42


def test_answers_in_one_piece_are_metered() -> None:
    """The usage of a JSON answer is read once it is whole."""
    meter = AnswerMeter()
    text = json.dumps({"usage": {"input_tokens": 3, "output_tokens": 4}}).encode()
    meter.feed(text[:9])
    assert not meter.whole
    meter.feed(text[9:])
    assert meter.whole
    assert meter.usage == Usage(input_tokens=3, output_tokens=4)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("soon", None), ("nan", None),
     ("inf", None), ("", None), ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0)],
)  # fmt: skip
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    """Seconds and dates are understood, the past means now, nonsense means nothing."""
    assert seconds_to_wait(header) == seconds


def test_retry_after_as_a_date() -> None:
    """A date in the future gives the seconds until then."""
    moment = datetime.now(UTC) + timedelta(seconds=90)
    assert seconds_to_wait(format_datetime(moment, usegmt=True)) == pytest.approx(90, abs=2)


@pytest.mark.parametrize(
    "address",
    ["", "api.anthropic.com", "ftp://h", "http://", "https://u:p@h", "https://h?x=1", "http://h#f",
     "http://[::1", "file:///etc/passwd"],
)  # fmt: skip
def test_addresses_that_cannot_be(address: str) -> None:
    """An address that is no plain http(s) base is refused when it is set, not when it is used."""
    with pytest.raises(ValueError):
        Upstream(address)


@pytest.mark.parametrize("secret", ["a\nb", "ключ", "a\r\nX: y"])
def test_credentials_that_no_header_carries(secret: str) -> None:
    """A credential with line ends or foreign letters is refused without being repeated."""
    with pytest.raises(ValueError) as refused:
        Upstream("https://h", api_key=secret)
    assert secret not in str(refused.value)


@given(st.text(max_size=40))
def test_no_query_changes_the_host(query: str) -> None:
    """Whatever stands in the query, host and path are ours."""
    query = query.encode("ascii", "ignore").decode().replace("#", "")
    url = Upstream("https://host.example:8443/base/").url("/v1/messages", query)
    assert (url.scheme, url.host, url.port) == ("https", "host.example", 8443)
    assert url.raw_path == "/base/v1/messages"
