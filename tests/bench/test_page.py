import asyncio
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from streamgen.bench.latency import Outcome
from streamgen.bench.page import page
from streamgen.errors import ConnectError
from tests.support.chromium import CHROMIUM, FLAGS
from tests.support.figures import outcome_of, session_log, waiting_log

REPORT: dict[str, Any] = {
    "command": "latency_benchmark --prompt '<script>alert(1)</script>'",
    "machine": {"cpu": "A <fast> one", "cores": 4, "gpu": ["One", "Two"]},
    "versions": {"python": "3.11"},
}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


def full_outcome() -> Outcome:
    logs = [session_log(), waiting_log(), *(session_log(number, 900, at_s=float(number)) for number in (2, 3))]
    return outcome_of(*logs, drops={"late": 3, "rate": 40})


def test_it_shows_every_session_and_what_is_known_of_it():
    it = read(page(REPORT, full_outcome(), ["session 1: 9 of 100 frames (9.0%) missed 400 ms; at most 1 %"]))
    assert it.found.count("svg") == 4 + 1 + 1
    assert it.found.count("tr") == 1 + 4 + 1
    for text in ("Latency of 4 sessions", "missed 400 ms", "late 3, rate 40", "load 2, room 1", "denoise", "outside"):
        assert text in it.text
    assert "never let in: still in the queue after 8 s" in it.text
    assert "One, Two" in it.text


def test_it_needs_nothing_from_anywhere_and_runs_nothing():
    html = page(REPORT, full_outcome(), [])
    assert "script" not in read(html).found
    assert not re.search(r"(?:src|href|url\(|@import|https?:)", html)
    assert "prefers-color-scheme: dark" in html


def test_what_came_from_elsewhere_is_escaped():
    outcome = Outcome((ConnectError("<img src=x onerror=alert(1)>"),), None)
    it = read(page(REPORT, outcome, ["<i>"]))
    assert not {"img", "script", "fast", "i"} & set(it.found)
    assert "<img src=x onerror=alert(1)>" in it.text
    assert "alert(1)</script>" in it.text


def test_stages_that_this_version_does_not_know_are_shown_as_others():
    log = session_log()
    log.stages.clear()
    log.stage({"denoise": 50.0, "polish": 30.0})
    text = read(page(REPORT, outcome_of(log), [])).text
    assert "other 30.0 ms" in text


def test_a_run_in_which_all_failed_has_a_page_too():
    it = read(page(REPORT, Outcome((ConnectError("gone"),) * 2, None), ["session 1: gone"]))
    assert "gone" in it.text
    assert "svg" not in it.found


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_browser_shows_it_without_a_word(tmp_path: Path, scheme: Any):
    from playwright.async_api import async_playwright  # noqa: PLC0415 - only where there is a Chromium for it

    file = tmp_path / "report.html"
    file.write_text(await asyncio.to_thread(page, REPORT, full_outcome(), []))
    said: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = await browser.new_page(color_scheme=scheme, viewport={"width": 400, "height": 800})
        tab.on("console", lambda message: said.append(message.text))
        await tab.goto(file.as_uri())
        colour = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
        width = await tab.evaluate("document.documentElement.scrollWidth")
        await browser.close()
    red = int(re.findall(r"\d+", colour)[0])
    assert (red > 128) == (scheme == "light")
    assert width <= 400  # nothing sticks out on a phone
    assert said == []
