"""A `post` (rich text) message as Markdown. Pure; unknown elements give the text they carry."""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_ELEMENTS = 5000
MAX_DEPTH = 8

_FENCE = re.compile("`{3,}")


def post_markdown(content: Mapping[str, object]) -> str:
    """Title, then one line a paragraph; pictures and files become placeholders like `[image]`.

    People stay the placeholders (`@_user_1`) that the message's mentions explain. What has the
    wrong type is left out.
    """
    body = _body(content)
    title, paragraphs = body.get("title"), body.get("content")
    lines = [f"# {title}"] if isinstance(title, str) and title.strip() else []
    left = _Budget(MAX_ELEMENTS)
    for paragraph in paragraphs if isinstance(paragraphs, list) else ():
        lines.append(_paragraph(paragraph, left, 0))
    return "\n".join(lines).strip("\n")


class _Budget:
    """How many elements may still be read."""

    def __init__(self, elements: int) -> None:
        self.elements = elements

    def spend(self) -> bool:
        self.elements -= 1
        return self.elements >= 0


def _body(content: Mapping[str, object]) -> Mapping[str, object]:
    """The post itself; some senders wrap it in a language."""
    if "content" in content:
        return content
    for value in content.values():
        if isinstance(value, dict) and "content" in value:
            return value
    return content


def _paragraph(paragraph: object, left: _Budget, depth: int) -> str:
    if isinstance(paragraph, dict):
        paragraph = [paragraph]
    if not isinstance(paragraph, list):
        return ""
    return "".join(_element(each, left, depth) for each in paragraph)


def _element(element: object, left: _Budget, depth: int) -> str:
    if not isinstance(element, dict) or not left.spend():
        return ""
    tag = element.get("tag")
    text = _string(element, "text")
    if tag == "a":
        href = _string(element, "href")
        return f"[{text or href}]({href})" if href else text
    if tag == "at":
        return _at(element)
    if tag in ("img", "media", "file", "audio", "video", "sticker"):
        return "[image]" if tag == "img" else f"[{tag}]"
    if tag == "emotion":
        return f":{_string(element, 'emoji_type')}:"
    if tag == "hr":
        return "\n---\n"
    if tag in ("code_block", "pre"):
        return _code(text, _string(element, "language"))
    if tag in ("ul", "ol"):
        return _list(element, left, depth, ordered=tag == "ol")
    if tag in ("md", "markdown"):
        return text or _string(element, "content")
    if text:
        return _styled(text, element.get("style"))
    return _nested(element, left, depth)


def _at(element: Mapping[str, object]) -> str:
    user = _string(element, "user_id")
    if user.startswith("@"):
        return user
    return "@_all" if user == "all" else "@" + (_string(element, "user_name") or user)


def _code(text: str, language: str) -> str:
    longest = max((len(fence) for fence in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    name = language.lower() if re.fullmatch(r"[\w+#.-]{1,30}", language) else ""
    end = "" if text.endswith("\n") else "\n"
    return f"\n{fence}{name}\n{text}{end}{fence}\n"


def _list(element: Mapping[str, object], left: _Budget, depth: int, *, ordered: bool) -> str:
    items = element.get("items", element.get("content", element.get("children")))
    if not isinstance(items, list) or depth >= MAX_DEPTH:
        return ""
    out = []
    for number, item in enumerate(items, 1):
        mark = f"{number}. " if ordered else "- "
        inner = _paragraph(item, left, depth + 1).strip("\n")
        out.append(mark + inner.replace("\n", "\n" + " " * len(mark)))
    return "\n" + "\n".join(out) + "\n"


def _nested(element: Mapping[str, object], left: _Budget, depth: int) -> str:
    if depth >= MAX_DEPTH:
        return ""
    for name in ("elements", "content", "children", "items"):
        if name in element:
            return _paragraph(element[name], left, depth + 1)
    return ""


def _styled(text: str, style: object) -> str:
    """Bold, italic, struck and code; white space stays outside of the marks."""
    core = text.strip()
    if not isinstance(style, list) or not core or "\n" in core:
        return text
    marked = core
    for name, mark in (("codeInline", "`"), ("italic", "*"), ("bold", "**"), ("lineThrough", "~~")):
        if name in style:
            marked = f"{mark}{marked}{mark}"
    return text.replace(core, marked, 1)


def _string(element: Mapping[str, object], name: str) -> str:
    value = element.get(name)
    return value if isinstance(value, str) else ""
