"""The simulator's chat page in a real browser, without a gateway."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from larkline.sim import frames
from larkline.sim.frames import WireFrame
from larkline.sim.platform import Platform
from larkline.sim.world import Json, Message

# One loop and one browser for the whole file: starting Chromium is the slow part.
pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

CHROMIUM = "/usr/bin/chromium"
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"


@pytest_asyncio.fixture(loop_scope="module")
async def platform() -> AsyncIterator[Platform]:
    async with Platform() as there:
        yield there


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is missing: apt-get install chromium")
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield found
        await found.close()


class Reader:
    """One open page, and what its console complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda m: self._note(m.type, m.text))
        page.on("pageerror", lambda error: self._note("error", str(error)))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    async def chat(self, chat_id: str) -> None:
        """Open a chat."""
        await self.page.locator(f"[data-chat='{chat_id}']").click()

    async def say(self, text: str) -> None:
        """Type into the chat's composer and send."""
        box = self.page.locator(".talk textarea")
        await box.fill(text)
        await box.press("Enter")


async def open_page(
    browser: Browser, platform: Platform, *, locale: str = "zh-CN", dark: bool = False
) -> Reader:
    """The page as a fresh visitor sees it."""
    context = await browser.new_context(
        locale=locale,
        color_scheme="dark" if dark else "light",
        viewport={"width": 1280, "height": 860},
    )
    reader = Reader(await context.new_page())
    await reader.page.goto(platform.url)
    await reader.page.wait_for_selector("html[data-ready]")
    return reader


def card(text: str, *, streaming: bool, buttons: int = 0) -> Json:
    """A card like larkline's."""
    elements: list[Json] = [{"tag": "markdown", "element_id": "answer", "content": text}]
    for number in range(buttons):
        elements.append(
            {
                "tag": "button",
                "element_id": f"button_{number}",
                "text": {"tag": "plain_text", "content": f"press {number}"},
                "behaviors": [{"type": "callback", "value": {"number": number}}],
            }
        )
    config = {"streaming_mode": streaming, "update_multi": True}
    return {"schema": "2.0", "config": config, "body": {"elements": elements}}


def show(platform: Platform, body: Json, **where: Message | None) -> tuple[str, Message]:
    """Put a card entity into the first user's private chat, as the bot would."""
    entity = platform.cards.create(platform.app.app_id, json.dumps(body))
    chat = platform.p2p(platform.users[0])
    message = platform.world.post(
        chat, "app", platform.app.app_id, "interactive", "{}", parent=where.get("parent")
    )
    platform.cards.send(entity, message.message_id)
    message.card_id = entity.card_id
    platform.world.changed("message", message.message_id)
    return entity.card_id, message


async def test_two_people_talk_and_each_sees_it_live(browser: Browser, platform: Platform) -> None:
    """What one writes in a group, the other sees at once; mention and thread arrive as such."""
    lin = await open_page(browser, platform)
    anna = await open_page(browser, platform, locale="en-US", dark=True)
    await anna.page.get_by_label("Switch to Anna").click()
    for reader in (lin, anna):
        await reader.chat(platform.group.chat_id)
    await lin.say("大家好 https://example.com/a?b=1")
    bubble = anna.page.locator(".bubble").first
    await expect(bubble).to_have_text("@larkline 大家好 https://example.com/a?b=1")
    await expect(bubble.locator("a")).to_have_attribute("href", "https://example.com/a?b=1")
    [message] = platform.messages(platform.group)
    assert message.mentions[0]["of"] is platform.app
    await anna.page.locator(".message").first.hover()
    await anna.page.get_by_role("button", name="Thread").click()
    box = anna.page.locator(".thread textarea")
    await box.fill("in the thread")
    await box.press("Enter")
    await expect(lin.page.locator(".thread-chip")).to_contain_text("1 条回复")
    answer = platform.messages(platform.group)[-1]
    assert answer.root_id == message.message_id
    assert answer.thread_id == message.thread_id != ""
    assert lin.complaints == anna.complaints == []


async def test_a_card_grows_in_place_and_ends_exact(browser: Browser, platform: Platform) -> None:
    """Streamed content appears while it streams; at the end the text is complete and still."""
    reader = await open_page(browser, platform)
    await reader.chat(platform.p2p(platform.users[0]).chat_id)
    card_id, _ = show(platform, card("…", streaming=True))
    entity = platform.cards.all[card_id]
    await expect(reader.page.locator(".card.streaming")).to_have_count(1)
    text = ""
    for number in range(1, 40):
        text += f"word{number} "
        platform.cards.stream_content(entity, "answer", text)
        platform.cards.commit(entity, "content", number, None)
        await expect(reader.page.locator(".card .md")).to_contain_text(f"word{number}")
    platform.cards.settings(entity, json.dumps({"config": {"streaming_mode": False}}))
    platform.cards.commit(entity, "settings", 40, None)
    await expect(reader.page.locator(".card.streaming")).to_have_count(0)
    await expect(reader.page.locator(".card .md")).to_have_text(text.strip())
    assert reader.complaints == []


async def test_markdown_is_drawn_and_nothing_in_it_runs(
    browser: Browser, platform: Platform
) -> None:
    """Code, tables, lists, headings and links are drawn; HTML and script links stay text."""
    reader = await open_page(browser, platform)
    await reader.chat(platform.p2p(platform.users[0]).chat_id)
    text = "\n\n".join(
        (
            "## 标题",
            "**bold** `a < b` [good](https://example.com/) [bad](javascript:window.hacked=1)",
            "- one\n  - inner\n- two",
            "3. three\n4. four",
            "| a | b |\n|---|--:|\n| 1 | `2|3` |\n| x \\| y | z |",
            f"```html\n{HOSTILE}\n&#60;\n```",
            f"{HOSTILE} &#60;b&#62; snake_case_name 2 * 3 * 4",
            "*" * 5000,
            "```python\nunfinished = True",
        )
    )
    show(platform, card(text, streaming=False))
    platform.people.send("lin", HOSTILE)
    md = reader.page.locator(".card .md")
    await expect(md.locator("h2")).to_have_text("标题")
    await expect(md.locator("strong")).to_have_text("bold")
    await expect(md.locator("a")).to_have_count(1)
    await expect(md.locator("ul ul li")).to_have_text("inner")
    await expect(md.locator("ol")).to_have_attribute("start", "3")
    await expect(md.locator("tbody tr")).to_have_count(2)
    await expect(md.locator("tbody td").nth(2)).to_have_text("x | y")
    await expect(md.locator("figure.code pre").first).to_have_text(f"{HOSTILE}\n&#60;")
    await expect(md.locator("figure.code pre").last).to_have_text("unfinished = True")
    await expect(md).to_contain_text(f"{HOSTILE} <b> snake_case_name 2 * 3 * 4")
    await expect(reader.page.locator(".bubble")).to_have_text(HOSTILE)
    assert await reader.page.evaluate("window.hacked") is None
    assert await reader.page.locator("main img, main script").count() == 0
    assert reader.complaints == []


async def test_buttons_reach_the_bot_and_show_its_toast(
    browser: Browser, platform: Platform
) -> None:
    """A press becomes a click event; its toast shows, and so does the lack of an answer."""
    _, message = show(platform, card("choose", streaming=False, buttons=2))
    reader = await open_page(browser, platform)
    await reader.page.get_by_role("button", name="press 1").click()
    await expect(reader.page.locator(".toast.error")).to_contain_text("200340")
    async with aiohttp.ClientSession() as session:
        body = {"AppID": platform.app.app_id, "AppSecret": platform.app.secret}
        async with session.post(platform.url + "/callback/ws/endpoint", json=body) as answer:
            url = (await answer.json())["data"]["URL"]
        async with session.ws_connect(url) as socket:
            press = reader.page.get_by_role("button", name="press 0").click()
            _, data = await asyncio.gather(press, socket.receive_bytes(timeout=10))
            frame = frames.decode(data)
            event = json.loads(frame.payload)["event"]
            assert event["action"]["value"] == {"number": 0}
            assert event["context"]["open_message_id"] == message.message_id
            toast = {"toast": {"type": "success", "content": "done <b>"}}
            data = base64.b64encode(json.dumps(toast).encode())
            ack = json.dumps({"code": 200, "data": data.decode()}).encode()
            await socket.send_bytes(
                frames.encode(WireFrame(frames.DATA, frame.headers, ack, seq_id=frame.seq_id))
            )
            await expect(reader.page.locator(".toast.success")).to_have_text("done <b>")
    assert reader.complaints == []


async def test_language_appearance_and_recall(browser: Browser, platform: Platform) -> None:
    """Both languages and both appearances at a click; a recalled message says so to everybody."""
    reader = await open_page(browser, platform)
    await reader.chat(platform.p2p(platform.users[0]).chat_id)
    await expect(reader.page.locator("h1")).to_have_text("消息")
    await reader.page.locator("#language").click()
    await expect(reader.page.locator("h1")).to_have_text("Messages")
    background = "getComputedStyle(document.body).backgroundColor"
    light = await reader.page.evaluate(background)
    await reader.page.locator("#theme").click()
    await reader.page.locator("#theme").click()
    assert await reader.page.evaluate(background) != light
    await reader.say("oops")
    await reader.page.locator(".message").hover()
    await reader.page.get_by_role("button", name="Recall").click()
    await expect(reader.page.locator(".recalled")).to_have_text("林晓 recalled a message")
    assert [d.event_type for d in platform.deliveries.all][-1] == "im.message.recalled_v1"
    await reader.page.reload()
    await expect(reader.page.locator("h1")).to_have_text("Messages")
    assert reader.complaints == []
