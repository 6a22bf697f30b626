"""The offline model's little language, its reading of requests and its own words."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from larkline.sim import sse
from larkline.sim.answers import plausible
from larkline.sim.asked import Asked, Malformed, read, tokens_in
from larkline.sim.script import filler, parse
from larkline.sim.steps import (
    Cut,
    LastResult,
    Refused,
    Stalled,
    Step,
    Text,
    Thinking,
    Tokens,
    Tool,
)


def asked(prompt: str, *, earlier: tuple[str, ...] = (), tools: tuple[str, ...] = ()) -> Asked:
    messages: list[dict[str, object]] = []
    for text in earlier:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "ok"}]
    messages.append({"role": "user", "content": prompt})
    return read({"model": "m", "messages": messages, "tools": [{"name": t} for t in tools]})


@pytest.mark.parametrize(
    ("prompt", "steps"),
    [
        ("hello [[wiki]] and [[ -n x ]]", ()),
        ("say [[text:hi]] please", (Step(blocks=(Text("hi"),)),)),
        ("[[tokens:5]][[rate:50]]", (Step(blocks=(Tokens(5),), delay=0.02),)),
        ("[[text:a b]][[chunk:2]]", (Step(blocks=(Text("a b", 2),)),)),
        ("[[empty]]", (Step(blocks=()),)),
        ("[[cut:3]][[text:x]]", (Step(blocks=(Text("x"),), fault=Cut(3)),)),
        ("[[rst]]", (Step(fault=Cut(0, reset=True)),)),
        ("[[pings:2]][[every:0.1]]", (Step(fault=Stalled(2, pings=0.1)),)),
        ("[[think:hm]][[result]]", (Step(blocks=(Thinking("hm"), LastResult())),)),
        (
            '[[tool:Bash {"command":"[[ 1 ]] && echo ]]"}]][[then:bye]]',
            (
                Step(blocks=(Tool("Bash", '{"command":"[[ 1 ]] && echo ]]"}'),)),
                Step(blocks=(Text("bye"),)),
            ),
        ),
        ('[[rawtool:Bash {"comm]]', (Step(blocks=(Tool("Bash", '{"comm'),)),)),
        ("[[tool:Bash]]", (Step(blocks=(Tool("Bash", "{}"),)),)),
        (
            "[[status:429]][[retry-after:3]][[header:a=b]][[kind:k]][[message:m]][[times:2]]",
            (Step(fault=Refused(429, "k", "m", {"a": "b", "retry-after": "3"}), times=2),),
        ),
        ("[[html]]", (Step(fault=Refused(200, html=True)),)),
    ],
)
def test_directives_read_as_documented(prompt: str, steps: tuple[Step, ...]) -> None:
    """Each directive means what the module says; unknown ones are the user's own text."""
    assert parse(prompt) == steps


@pytest.mark.parametrize(
    "prompt",
    [
        "[[delay:x]]",
        "[[text:open",
        "[[header:a]]",
        "[[size:-1]]",
        "[[first:nan]]",
        "[[status:9999]]",
        '[[tool:Bash {"a":]]',
    ],
)
def test_wrong_directives_are_errors(prompt: str) -> None:
    """A known directive with a value that does not fit is never taken for something else."""
    with pytest.raises(ValueError):
        parse(prompt)


@given(st.text())
def test_any_text_reads_or_is_refused(prompt: str) -> None:
    """No prompt makes the parser fail in another way, or hang."""
    for text in (prompt, f"[[{prompt}]]", f"[[text:{prompt}]]", f"[[tool:{prompt}]]"):
        try:
            parse(text)
        except ValueError:
            continue


@given(st.text(), st.integers(1, 9))
def test_deltas_add_up_to_the_text(text: str, chunk: int) -> None:
    """Whatever the text, its deltas joined are the text, and each frame is one JSON event."""
    text = text.encode(errors="replace").decode()
    for block in (Text(text), Text(text, chunk), Thinking(text), Tool("T", text)):
        found = ""
        for frame in sse.frames(Step(blocks=(block,)), asked("hi")):
            for line in frame.data.decode().split("\n\n"):
                if "data: " in line:
                    event = json.loads(line.split("data: ", 1)[1])
                    delta = event.get("delta", {}) if frame.delta else {}
                    found += delta.get("text") or delta.get("thinking") or ""
                    found += delta.get("partial_json") or ""
        assert found == text


def test_requests_read_as_the_cli_sends_them() -> None:
    """Reminders and inserted lines are no prompts; rounds and results are counted from one."""
    result = {"type": "tool_result", "content": [{"type": "text", "text": "no"}], "is_error": True}
    seen = read(
        {
            "model": "m",
            "stream": True,
            "tools": [{"name": "Bash"}],
            "messages": [
                {"role": "user", "content": "first"},
                {"role": "assistant", "content": [{"type": "text", "text": "ok"}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "<system-reminder>x</system-reminder>"},
                        {"type": "text", "text": "second\n"},
                    ],
                },
                {"role": "system", "content": " - Primary working directory: /w/s p\n - x"},
                {"role": "assistant", "content": [{"type": "tool_use", "name": "Bash"}]},
                {"role": "user", "content": [result]},
                {"role": "system", "content": "more"},
            ],
        }
    )
    assert (seen.prompts, seen.prompt, seen.round) == (("first", "second"), "second", 1)
    assert [(r.text, r.failed) for r in seen.results] == [("no", True)]
    assert (seen.cwd, seen.tools, seen.stream) == ("/w/s p", frozenset({"Bash"}), True)


@pytest.mark.parametrize(
    "body",
    [[], {}, {"model": "m"}, {"model": "m", "messages": []}, {"model": "m", "messages": [1]}],
)
def test_bodies_that_the_api_refuses(body: object) -> None:
    """A body without what the API needs is Malformed, not a crash."""
    with pytest.raises(Malformed):
        read(body)


@pytest.mark.parametrize(
    ("prompt", "tool", "part"),
    [
        ("写一个文件 notes/a.md", "Write", "/ws/notes/a.md"),
        ("create a python script", "Write", "/ws/hello.py"),
        ("ls", "Bash", "ls -la"),
        ("列出文件", "Bash", "ls -la"),
        ("运行 hello.py", "Bash", "python3 hello.py"),
        ("read hello.py please", "Read", "/ws/hello.py"),
    ],
)
def test_wishes_become_tool_calls(prompt: str, tool: str, part: str) -> None:
    """The demo's wishes call their tool with sound input; without that tool it just talks."""
    step = plausible(_in_workspace(asked(prompt, tools=("Write", "Bash", "Read"))))
    call = next(b for b in step.blocks or () if isinstance(b, Tool))
    assert call.name == tool
    assert part in json.loads(call.input_json).values()
    assert not any(isinstance(b, Tool) for b in plausible(asked(prompt)).blocks or ())


def _in_workspace(one: Asked) -> Asked:
    return replace(one, cwd="/ws")


@pytest.mark.parametrize(
    ("prompt", "word"), [("what did I say before?", "remember"), ("我刚才说了什么", "记得")]
)
def test_recall_repeats_what_was_said(prompt: str, word: str) -> None:
    """Asked for the past it answers from the history that the request carries."""
    text = _said(plausible(asked(prompt, earlier=("my cat is Tom", "and Ann"))))
    assert word in text
    assert "my cat is Tom" in text
    assert "and Ann" in text


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("hi there", "offline model"),
        ("please remember my cat", "offline model"),
        ("你好", "离线模型"),
        ("请记得我的猫", "离线模型"),
    ],
)
def test_it_says_what_it_is(prompt: str, word: str) -> None:
    """The plain answer is in the prompt's language, has a list and code, and names itself."""
    text = _said(plausible(asked(prompt)))
    assert word in text
    assert "\n- " in text
    assert "```" in text


def _said(step: Step) -> str:
    return "".join(b.text for b in step.blocks or () if isinstance(b, Text))


def test_sizes_are_exact() -> None:
    """`size` makes exactly so many characters, and tokens are counted as documented."""
    assert [len(filler(n)) for n in (0, 1, 50, 51, 12345)] == [0, 1, 50, 51, 12345]
    assert (tokens_in("abcde"), tokens_in("你好"), tokens_in("你好ab"), tokens_in("")) == (
        2,
        2,
        3,
        0,
    )
