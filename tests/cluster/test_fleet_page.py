"""The page of a fleet, driven in Chromium: it stays with its gateway, whatever node has its stream."""

from __future__ import annotations

import asyncio
import os
import signal

import httpx
import pytest

from tests.support.chromium import CHROMIUM, FLAGS
from tests.support.fleet import local_fleet

if CHROMIUM is None:
    pytest.skip("chromium is not installed, which the tests of the page drive", allow_module_level=True)

from playwright.async_api import Page, async_playwright, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(180)]

TOKEN = "hush"
PLAYS = """
async (id) => {
  const video = document.getElementById(id);
  for (let shown = 0; shown < 3; shown++) await new Promise((done) => video.requestVideoFrameCallback(done));
  return true;
}
"""


async def is_live(page: Page) -> None:
    await page.wait_for_function("() => document.body.dataset.state === 'live'", timeout=60_000)
    assert await page.evaluate(PLAYS, "result")


async def test_a_stream_moves_and_outlives_its_node_and_its_viewers_need_no_token() -> None:
    async with local_fleet(2, token=TOKEN) as (url, nodes), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = await browser.new_context(viewport={"width": 1280, "height": 800})
        await context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = await context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        await page.goto(f"{url}/#token={TOKEN}")
        await page.fill("#prompt", "ink")
        await page.click("[data-kind=pattern]")
        await page.wait_for_function("() => document.getElementById('source').videoWidth > 0")
        await page.click("#start")
        await is_live(page)

        await page.click("#link")
        await expect(page.locator("#feedback")).to_contain_text("Link for viewers")
        link = await page.evaluate("navigator.clipboard.readText()")
        assert link.startswith(f"{url}/watch/n0.")
        viewer = await context.new_page()
        await viewer.goto(link)
        await viewer.wait_for_selector("[data-state=live]", timeout=30_000)
        assert await viewer.evaluate(PLAYS, "video")
        await viewer.close()
        assert said == []

        async with httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
        ) as http:
            await http.post("/api/cluster/n0/drain")
            await expect(page.locator("#feedback")).to_have_text(
                "Another machine took the stream over.", timeout=30_000
            )
            await is_live(page)
            await http.delete("/api/cluster/n0/drain")
            await page.fill("#prompt", "oil")
            await page.press("#prompt", "Enter")
            await expect(page.locator("#feedback")).to_contain_text("Applied from frame")

            os.kill(nodes.hosts["n1"].pid, signal.SIGKILL)
            await page.wait_for_function("() => document.body.dataset.state === 'reconnecting'", timeout=30_000)
            await expect(page.locator("#feedback")).to_have_text(
                "Another machine took the stream over.", timeout=60_000
            )
            await is_live(page)
            async with asyncio.timeout(30):
                while (await http.get("/api/cluster")).json()["nodes"][0]["sessions"] != 1:  # noqa: ASYNC110 - by HTTP
                    await asyncio.sleep(0.1)
        assert await page.input_value("#prompt") == "oil"
        await browser.close()
