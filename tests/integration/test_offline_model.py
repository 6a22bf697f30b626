"""The offline model under the real Claude CLI."""

import asyncio
import json
import uuid
from pathlib import Path

import aiohttp
import pytest
from oneshot import KEY, ask

from larkline.sim.model import OfflineModel
from larkline.sim.steps import Broken, Refused, Step, Text, Tool


@pytest.mark.cli
async def test_cli_takes_its_answer_as_a_whole_turn(tmp_path: Path) -> None:
    """The CLI streams the model's text and reports exactly the usage that the model sent."""
    async with OfflineModel() as model:
        run = await ask(model.url, "[[tokens:30]]", tmp_path)
        asked = model.requests[0].asked
    assert run.result["is_error"] is False
    assert run.result["result"] == run.streamed == " ".join(f"t{n}" for n in range(1, 31))
    assert run.result["usage"]["output_tokens"] == 30
    assert run.result["usage"]["input_tokens"] == asked.new_tokens
    assert run.result["usage"]["cache_creation_input_tokens"] == asked.old_tokens
    assert model.requests[0].key == KEY


@pytest.mark.cli
@pytest.mark.parametrize("language", ["zh", "en"])
async def test_demo_shows_tools_and_memory(tmp_path: Path, language: str) -> None:
    """A wish for a file writes it, and a resumed session knows what was said before."""
    wish, recall = {
        "zh": ("写一个文件 hello.py", "我刚才说了什么？"),
        "en": ("please create a file hello.py", "what did I say before?"),
    }[language]
    session = str(uuid.uuid4())
    async with OfflineModel() as model:
        first = await ask(model.url, wish, tmp_path, f"--session-id={session}")
        second = await ask(model.url, recall, tmp_path, f"--resume={session}")
    assert "offline model" in (tmp_path / "work" / "hello.py").read_text()
    assert first.result["num_turns"] == 2
    assert wish in second.result["result"]
    assert model.requests[-1].count(wish) == 1


@pytest.mark.cli
async def test_then_follows_a_tool_call(tmp_path: Path) -> None:
    """`then` begins the answer after the tool result, which `result` repeats."""
    prompt = '[[tool:Bash {"command":"echo so-it-ran"}]][[then]][[text:saw ]][[result]]'
    async with OfflineModel() as model:
        run = await ask(model.url, prompt, tmp_path)
    assert run.result["result"].endswith("so-it-ran")
    assert [r.asked.round for r in model.requests] == [0, 1]


@pytest.mark.cli
async def test_enqueued_steps_come_before_the_prompt(tmp_path: Path) -> None:
    """A test's own steps are played in order, then the model speaks for itself."""
    async with OfflineModel() as model:
        model.enqueue(
            Step(blocks=(Tool("Bash", '{"command":"ls"}'),)), Step(blocks=(Text("mine"),))
        )
        run = await ask(model.url, "[[text:not this]]", tmp_path)
    assert run.result["result"] == "mine"


@pytest.mark.cli
@pytest.mark.parametrize(
    ("directive", "requests", "retries"),
    [
        ("[[status:500]]", 2, 1),
        ("[[status:502]][[html]]", 2, 1),
        ("[[status:529]]", 2, 1),
        ("[[status:429]][[retry-after:1]]", 2, 1),
        ("[[drop]]", 2, 1),
        ("[[cut:2]]", 2, 1),
        ("[[rst:2]]", 2, 1),
        ("[[break:2]]", 2, 0),
        ("[[garble:2]]", 2, 0),
        ("[[blank]]", 2, 0),
    ],
)
async def test_cli_gets_over_a_fault_that_ends(
    tmp_path: Path, directive: str, requests: int, retries: int
) -> None:
    """Each fault with `times:1` is met once, as the facts about the CLI say, then all is well."""
    async with OfflineModel() as model:
        run = await ask(model.url, f"{directive}[[times:1]][[text:a b c d e f]]", tmp_path)
        assert len(model.requests) == requests
    assert len(run.retries) == retries
    assert (run.result["is_error"], run.result["result"]) == (False, "a b c d e f")


@pytest.mark.cli
@pytest.mark.parametrize(
    ("directive", "status", "reason"),
    [
        ("[[status:403]]", 403, "api_error"),
        ("[[status:402]]", 402, "api_error"),
        ("[[status:400]][[message:Your credit balance is too low]]", 400, "api_error"),
        ("[[status:400]][[message:prompt is too long: 9 > 1]]", 400, "prompt_too_long"),
        ("[[status:413]]", 413, "image_error"),
        ("[[status:429]][[retry-after:120]]", 429, "api_error"),
        ("[[status:401]][[header:x-should-retry=false]]", 401, "api_error"),
    ],
)
async def test_cli_gives_up_on_a_refusal(
    tmp_path: Path, directive: str, status: int, reason: str
) -> None:
    """Each refusal that the CLI takes as final reaches it with its status and meaning."""
    async with OfflineModel() as model:
        run = await ask(model.url, directive, tmp_path)
    assert run.result["is_error"] is True
    assert run.result["api_error_status"] == status
    assert run.result["terminal_reason"] == reason


@pytest.mark.cli
@pytest.mark.parametrize(
    ("directive", "result"),
    [
        ("[[nostop]][[text:half]][[then:rest]]", "rest"),
        ("[[stop:max_tokens]][[text:half]][[then:rest]]", "rest"),
        ("[[stop:refusal]][[text:no]][[then:rest]]", "rest"),
        ("[[empty]]", ""),
        ("[[tool:Nope {}]][[then:went on]]", "went on"),
        ('[[rawtool:Bash {"comm]][[then:went on]]', "went on"),
        ("[[think:hm]][[text:thought]]", "thought"),
    ],
)
async def test_cli_goes_on_after_odd_endings(tmp_path: Path, directive: str, result: str) -> None:
    """Odd endings are followed by the CLI's own second call or by nothing, never by a failure."""
    async with OfflineModel() as model:
        run = await ask(model.url, directive, tmp_path)
    assert (run.result["is_error"], run.result["result"]) == (False, result)


@pytest.mark.parametrize(
    ("directive", "pings"),
    [("[[hang]]", 0), ("[[stall:2]]", 1), ("[[pings:2]][[every:0.02]]", 5)],
)
async def test_silence_lasts_until_the_client_goes(directive: str, pings: int) -> None:
    """A hanging answer never ends by itself, and the model knows when the client has gone."""
    async with OfflineModel() as model, aiohttp.ClientSession() as client:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": directive}]}
        got = bytearray()

        async def call() -> None:
            async with client.post(f"{model.url}/v1/messages", json=body) as answer:
                async for chunk in answer.content.iter_any():
                    got.extend(chunk)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call(), 0.4)
        await model.until(lambda: model.endings.get(1) == "gone")
        assert pings <= got.count(b"event: ping") <= pings**2


async def test_deltas_keep_their_rate() -> None:
    """200 deltas at 200 a second take a second, whatever each one costs."""
    async with OfflineModel() as model, aiohttp.ClientSession() as client:
        prompt = "[[tokens:201]][[rate:200]]"
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}]}
        clock = asyncio.get_running_loop().time
        async with client.post(f"{model.url}/v1/messages", json=body) as answer:
            began = clock()
            await answer.read()
            spent = clock() - began
    assert 0.98 < spent < 1.35


async def test_one_piece_says_the_same_as_the_stream() -> None:
    """A request that does not stream gets the same text and figures as one that does."""
    async with OfflineModel() as model, aiohttp.ClientSession() as client:
        body = {"model": "m", "messages": [{"role": "user", "content": "[[text:你好 hello]]"}]}
        async with client.post(f"{model.url}/v1/messages", json=body) as answer:
            whole = await answer.json()
        async with client.post(f"{model.url}/v1/messages", json={**body, "stream": True}) as answer:
            lines = (await answer.text()).splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    text = "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta")
    assert text == whole["content"][0]["text"] == "你好 hello"
    start = next(e for e in events if e["type"] == "message_start")["message"]
    end = next(e for e in events if e["type"] == "message_delta")
    assert start["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert end["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert start["id"] != whole["id"]


async def test_refuses_what_the_api_refuses() -> None:
    """Wrong keys, bodies and paths get the API's own kind of error."""
    async with OfflineModel(key="right") as model, aiohttp.ClientSession() as client:
        for key, data, path, status in [
            ("wrong", b"{}", "/v1/messages", 401),
            ("right", b"{", "/v1/messages", 400),
            ("right", b'{"model":"m","messages":[]}', "/v1/messages", 400),
            ("right", b"{}", "/v1/complete", 404),
        ]:
            headers = {"x-api-key": key}
            async with client.post(model.url + path, data=data, headers=headers) as answer:
                assert (answer.status, (await answer.json())["type"]) == (status, "error")
        assert not model.requests


async def test_faults_with_times_count_again_after_success() -> None:
    """`times` counts requests of one prompt; once it was answered the fault is armed again."""
    async with OfflineModel() as model, aiohttp.ClientSession() as client:
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": "[[status:529]][[times:2]]"}],
        }
        statuses = []
        for _ in range(6):
            async with client.post(f"{model.url}/v1/messages", json=body) as answer:
                statuses.append(answer.status)
        model.enqueue(Step(fault=Refused(418)), Step(fault=Broken()))
        async with client.post(f"{model.url}/v1/messages", json=body) as answer:
            statuses.append(answer.status)
    assert statuses == [529, 529, 200, 529, 529, 200, 418]
