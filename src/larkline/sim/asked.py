"""What a request of the Messages API asks, seen the way a model would."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_INSERTED = (
    "<system-reminder>",
    "<local-command",
    "<command-name>",
    "[Request interrupted by user",
    "[Your previous response had no visible output",
    "Output token limit hit",
    "Your response above was ",
)
_CWD = re.compile(r"Primary working directory: (.+)")


@dataclass(frozen=True, slots=True)
class ToolResult:
    """One tool result, its content as plain text."""

    text: str
    failed: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: `prompts` are what the user wrote, oldest first, without what the CLI adds.

    `round` counts the assistant's messages since the newest prompt, `results` are the tool
    results that the last message carries. Token figures are estimates (see `tokens_in`).
    """

    model: str
    stream: bool
    prompts: tuple[str, ...]
    round: int
    results: tuple[ToolResult, ...]
    tools: frozenset[str]
    cwd: str
    old_tokens: int
    new_tokens: int
    resumed: bool

    @property
    def prompt(self) -> str:
        """The newest prompt, '' when there is none."""
        return self.prompts[-1] if self.prompts else ""


class Malformed(ValueError):
    """A body that the real API refuses with `invalid_request_error`."""


def read(body: object) -> Asked:
    """What a decoded request body asks.

    Raises: Malformed when a field the real API needs is missing or of the wrong type.
    """
    if not isinstance(body, dict):
        raise Malformed("the body must be a JSON object")
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str):
        raise Malformed("model: Field required")
    if not isinstance(messages, list) or not messages:
        raise Malformed("messages: at least one message is required")
    if not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
        raise Malformed("messages: each needs a role and content")
    prompts, since = _prompts(messages)
    tools = [t for t in body.get("tools") or () if isinstance(t, dict)]
    fixed = tokens_in(str(body.get("system") or "")) + tokens_in(str(tools))
    last = max(n for n, m in enumerate(messages) if m["role"] != "system" or n == 0)
    old = sum(tokens_in(_text(m)) for m in messages[:last])
    new = sum(tokens_in(_text(m)) for m in messages[last:])
    return Asked(
        model=model,
        stream=body.get("stream") is True,
        prompts=tuple(prompts),
        round=since,
        results=tuple(_results(messages[last])),
        tools=frozenset(str(t.get("name")) for t in tools),
        cwd=_cwd(body, messages),
        old_tokens=fixed + old,
        new_tokens=new,
        resumed=any(m["role"] == "assistant" for m in messages),
    )


def tokens_in(text: str) -> int:
    """An estimate of a text's tokens: four ASCII characters each, one for any other character."""
    if text.isascii():
        return -(-len(text) // 4)
    plain = len(text.encode("ascii", "ignore"))
    return -(-plain // 4) + len(text) - plain


def _prompts(messages: Sequence[Mapping[str, object]]) -> tuple[list[str], int]:
    prompts: list[str] = []
    since = 0
    for message in messages:
        if message["role"] == "assistant":
            since += 1
        elif message["role"] == "user":
            written = [t for t in _texts(message) if not t.lstrip().startswith(_INSERTED)]
            if written:
                prompts.append("\n".join(written).strip())
                since = 0
    return prompts, since


def _blocks(message: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    content = message.get("content")
    if isinstance(content, str):
        yield {"type": "text", "text": content}
    elif isinstance(content, list):
        yield from (b for b in content if isinstance(b, dict))


def _texts(message: Mapping[str, object]) -> Iterator[str]:
    for block in _blocks(message):
        if block.get("type") == "text" and (text := str(block.get("text", ""))).strip():
            yield text


def _results(message: Mapping[str, object]) -> Iterator[ToolResult]:
    for block in _blocks(message):
        if block.get("type") == "tool_result":
            yield ToolResult("\n".join(_texts(block)), block.get("is_error") is True)


def _text(message: Mapping[str, object]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else str(content)


def _cwd(body: Mapping[str, object], messages: Sequence[Mapping[str, object]]) -> str:
    system = [*_texts({"content": body.get("system")})]
    for message in messages:
        if message["role"] == "system":
            system.extend(_texts(message))
    found = [m[1].strip() for text in system if (m := _CWD.search(text))]
    return found[-1] if found else ""
