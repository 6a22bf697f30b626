"""What the model broker costs a streamed delta: latency against a direct call, and CPU.

Upstream and reader are processes of their own; the broker runs in this one, so that its CPU time
is all that is counted. Each delta carries the moment of its sending (one monotonic clock for the
whole machine). Direct and brokered rounds alternate. Prints one JSON object.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from asyncio.subprocess import Process

import aiohttp
from aiohttp import web

from larkline.agents.broker import Broker, Upstream

Figures = dict[str, float]
_HEAD = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'


async def serve() -> None:
    """The upstream: streams `deltas` stamped events at `rate` a second (0: at once)."""

    async def stream(request: web.Request) -> web.StreamResponse:
        wish = await request.json()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        clock, began = asyncio.get_running_loop().time, asyncio.get_running_loop().time()
        for n in range(wish["deltas"]):
            if wish["rate"]:
                await asyncio.sleep(began + n / wish["rate"] - clock())
            text = b'{"type":"text_delta","text":"%d"}}\n\n' % time.monotonic_ns()
            await response.write(_HEAD + text)
        await response.write(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
        return response

    app = web.Application()
    app.router.add_post("/v1/messages", stream)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


async def read() -> None:
    """The reader: for each order on stdin, the latencies of all its deltas in microseconds."""
    async with aiohttp.ClientSession() as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            streams = [_latencies(client, order) for _ in range(order["streams"])]
            found = [each for one in await asyncio.gather(*streams) for each in one]
            print(json.dumps(found), flush=True)


async def _latencies(client: aiohttp.ClientSession, order: dict[str, str]) -> list[float]:
    found, tail = [], b""
    headers = {"x-api-key": order["token"]}
    url = f"{order['url']}/v1/messages"
    async with client.post(url, json={**order, "stream": True}, headers=headers) as answer:
        answer.raise_for_status()
        async for chunk in answer.content.iter_any():
            now = time.monotonic_ns()
            *events, tail = (tail + chunk).split(b"\n\n")
            stamps = [e.rsplit(b'"', 2)[1] for e in events if b"text_delta" in e]
            found += [(now - int(stamp)) / 1000 for stamp in stamps]
    return found


async def spawn(role: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, role, stdin=-1, stdout=-1, limit=64 << 20
    )


async def told(process: Process) -> bytes:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 120)
    if not line:
        raise RuntimeError("a process of the benchmark ended")
    return line


async def measure(rounds: int = 20) -> dict[str, object]:
    upstream, reader = await spawn("upstream"), await spawn("reader")
    assert upstream.stdin is not None
    assert reader.stdin is not None
    try:
        url = (await told(upstream)).decode().strip()
        async with Broker(Upstream(url, api_key="k")) as broker:
            token = broker.admit("bench")

            async def run(base: str, streams: int, deltas: int, rate: int) -> tuple[Figures, float]:
                order = {"url": base, "token": token, "streams": streams}
                line = json.dumps({**order, "deltas": deltas, "rate": rate})
                assert reader.stdin is not None
                cpu, wall = time.process_time(), time.monotonic()
                reader.stdin.write(f"{line}\n".encode())
                found = json.loads(await told(reader))
                cpu, wall = time.process_time() - cpu, time.monotonic() - wall
                assert len(found) == streams * deltas
                return _figures(found, cpu, wall), statistics.median(found)

            await run(broker.url, 1, 50, 0)  # warm-up
            await run(url, 1, 50, 0)
            paced: dict[str, list[tuple[Figures, float]]] = {"direct": [], "brokered": []}
            for _ in range(rounds):
                paced["direct"].append(await run(url, 5, 50, 50))
                paced["brokered"].append(await run(broker.url, 5, 50, 50))
            flood, _ = await run(broker.url, 1, 20_000, 0)
    finally:
        upstream.stdin.close()
        reader.stdin.close()
        await asyncio.wait_for(asyncio.gather(upstream.wait(), reader.wait()), 10)
    direct, brokered = (_medians(paced[name]) for name in ("direct", "brokered"))
    return {
        "what": "broker, 5 streams of 50 deltas/s each",
        "rounds": rounds,
        "direct": direct,
        "brokered": brokered,
        "added_latency_us_median": round(brokered["latency_us_p50"] - direct["latency_us_p50"], 1),
        "latency_ratio_median": round(brokered["latency_us_p50"] / direct["latency_us_p50"], 2),
        "cpu_us_per_delta": brokered["broker_cpu_us_per_delta"],
        "cpu_share_of_a_core": brokered["broker_cpu_share"],
        "flood_20000_deltas": flood,
    }


def _figures(found: list[float], cpu: float, wall: float) -> Figures:
    cuts = statistics.quantiles(found, n=100)
    return {
        "latency_us_p50": round(cuts[49], 1),
        "latency_us_p99": round(cuts[98], 1),
        "broker_cpu_us_per_delta": round(cpu / len(found) * 1e6, 1),
        "broker_cpu_share": round(cpu / wall, 4),
        "deltas_per_second": round(len(found) / wall, 1),
    }


def _medians(runs: list[tuple[Figures, float]]) -> Figures:
    figures = [one for one, _ in runs]
    return {name: round(statistics.median(f[name] for f in figures), 4) for name in figures[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=["measure", "upstream", "reader"])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    if options.role == "upstream":
        asyncio.run(serve())
    elif options.role == "reader":
        asyncio.run(read())
    else:
        print(json.dumps(asyncio.run(measure(options.rounds)), indent=2))


if __name__ == "__main__":
    main()
