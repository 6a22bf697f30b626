"""A person at the chat page, with the whole of larkline behind it. PICTURES=DIR keeps pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gateway_kit import Gateway
from playwright.async_api import async_playwright, expect
from test_sim_page import CHROMIUM, QUIET, open_page

pytestmark = [pytest.mark.browser, pytest.mark.cli, pytest.mark.timeout(240)]


async def test_a_person_talks_to_the_agent(gateway: Gateway, tmp_path: Path) -> None:
    """Typing a message shows a card that grows and settles; the next one continues the talk."""
    pictures = Path(os.environ.get("PICTURES", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    gateway.settings["LARKLINE_LANGUAGE"] = "zh"
    platform = gateway.platform
    await gateway.start()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        reader = await open_page(browser, platform)
        page = reader.page
        await reader.chat(platform.p2p(platform.users[0]).chat_id)
        await reader.say("介绍一下你自己")
        await expect(page.locator(".talk")).to_contain_text("离线模型", timeout=60_000)
        await page.screenshot(path=pictures / "streaming.png")
        await expect(page.locator(".talk").get_by_text("✅")).to_have_count(1, timeout=60_000)
        await reader.say("我刚才说了什么？")
        await expect(page.locator(".talk").get_by_text("✅")).to_have_count(2, timeout=60_000)
        await page.screenshot(path=pictures / "demo.png")
        assert reader.complaints == []
        await browser.close()
    assert platform.refusals() == []
