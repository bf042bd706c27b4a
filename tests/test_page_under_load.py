"""The page, driven in Chromium, where the service tells of a queue, of a lower quality, and what may not be lowered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from streamgen.core import Params
from tests.support.chromium import CHROMIUM, FLAGS
from tests.support.echo_service import Behaviour, EchoSession
from tests.support.page_service import PageService

if CHROMIUM is None:
    pytest.skip("chromium is not installed, which the tests of the page drive", allow_module_level=True)

from playwright.sync_api import Page, expect, sync_playwright

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(120)]

LOWER = {"rung": 3, "rungs": 6, "steps": 1, "fps": 8.0, "width": 288, "height": 172, "vae": "full"}


@pytest.fixture
def service() -> Iterator[PageService]:
    with PageService(Behaviour(defaults=Params().as_dict())) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, service: PageService) -> Iterator[Page]:
    """The page with the test scene as its source, not started."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(service.url)
    page.wait_for_selector("#styles button")
    page.click("[data-kind=pattern]")
    page.wait_for_function("() => document.getElementById('source').videoWidth > 0")
    yield page
    context.close()


def wait_for(condition: Callable[[], bool], page: Page) -> None:
    for _ in range(500):
        if condition():
            return
        page.wait_for_timeout(20)
    raise AssertionError("what was waited for did not come")


def wait_for_state(page: Page, state: str) -> None:
    page.wait_for_function("(state) => document.body.dataset.state === state", arg=state, timeout=60_000)


def go_live(page: Page, service: PageService) -> EchoSession:
    page.click("#start")
    wait_for_state(page, "warming")
    session = newest(service)
    wait_for(lambda: session.channel is not None, page)  # the media may be up before it
    service.say(session.id, {"type": "state", "state": "live"})
    wait_for_state(page, "live")
    page.wait_for_selector("#result-view.filled")
    return session


def newest(service: PageService) -> EchoSession:
    return next(reversed(service.sessions.values()))


def box(page: Page, selector: str) -> Any:
    return page.locator(selector).bounding_box()


def test_the_queue_tells_the_place_and_lets_one_in(page: Page, service: PageService) -> None:
    service.behaviour.queued = True
    page.click("#start")
    wait_for_state(page, "queued")
    title = page.locator("#notice-title")
    expect(title).to_have_text("You are number 2 in the queue, about 40 s")
    expect(page.locator("#announce")).to_contain_text("You are number 2 in the queue")
    expect(page.locator(".spinner")).to_be_hidden()
    session = newest(service)
    page.focus("[data-action=leave]")
    service.say(session.id, {"type": "queue", "position": 2, "estimate_s": 31.0})
    expect(title).to_have_text("You are number 2 in the queue, about 30 s")
    expect(page.locator("#announce")).to_contain_text("about 40 s")  # a better guess is not read out
    service.say(session.id, {"type": "queue", "position": 1, "estimate_s": None})
    expect(title).to_have_text("You are number 1 in the queue")
    expect(page.locator("#announce")).to_contain_text("You are number 1 in the queue")
    expect(page.locator("[data-action=leave]")).to_be_focused()
    service.admit(session.id)
    wait_for_state(page, "warming")
    service.say(session.id, {"type": "state", "state": "live"})
    page.wait_for_selector("#result-view.filled")
    expect(page.locator("#notice")).to_be_hidden()


def test_the_queue_can_be_left(page: Page, service: PageService) -> None:
    service.behaviour.queued = True
    page.click("#start")
    page.click("#notice-actions [data-action=leave]")
    wait_for_state(page, "idle")
    wait_for(lambda: service.deleted == [newest(service).id], page)


def test_a_lower_quality_is_told_until_it_is_over_and_moves_nothing(page: Page, service: PageService) -> None:
    session = go_live(page, service)
    lowered = page.locator("#lowered")
    expect(lowered).to_be_hidden()
    page.wait_for_function("() => document.getElementById('result').videoWidth === 640")
    before = box(page, "#result-view"), box(page, "#result"), box(page, "#source-view")
    service.behaviour.scale = 0.45
    service.say(session.id, {"type": "quality", **LOWER, "reason": "load"})
    expect(lowered).to_have_text("Many are watching: running at 1 step, 8 fps, 288 \N{MULTIPLICATION SIGN} 172")
    expect(page.locator("#announce")).to_have_text(
        "Many are watching: running at 1 step, 8 fps, 288 \N{MULTIPLICATION SIGN} 172"
    )
    page.wait_for_function("() => document.getElementById('result').videoWidth === 288")
    page.wait_for_timeout(300)
    assert (box(page, "#result-view"), box(page, "#result"), box(page, "#source-view")) == before
    service.say(session.id, {"type": "quality", **LOWER, "rung": 1, "steps": 2, "reason": "room"})
    expect(lowered).to_contain_text("There is more room again: running at 2 steps")
    service.say(session.id, {"type": "quality", **LOWER, "rung": 0, "steps": 2, "reason": "room"})
    expect(lowered).to_be_hidden()


def test_a_recording_outlives_a_change_of_size(page: Page, service: PageService, tmp_path: Path) -> None:
    go_live(page, service)
    page.wait_for_function("() => document.getElementById('result').videoWidth === 640")
    page.click("#record")
    page.wait_for_timeout(1000)
    service.behaviour.scale = 0.5
    page.wait_for_function("() => document.getElementById('result').videoWidth === 320")
    page.wait_for_timeout(1000)
    with page.expect_download() as download:
        page.click("#record")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    with av.open(path) as container:
        pictures = list(container.decode(video=0))
    assert {picture.width for picture in pictures} == {640, 320}
    first, last = (picture.to_ndarray(format="rgb24").mean((0, 1)) for picture in (pictures[0], pictures[-1]))
    assert abs(first - last).max() < 40, "what came after the change is no picture of the scene"


def test_what_was_told_of_a_session_goes_with_it(page: Page, service: PageService) -> None:
    session = go_live(page, service)
    service.say(session.id, {"type": "quality", **LOWER, "reason": "load"})
    expect(page.locator("#lowered")).to_be_visible()
    page.click("#start")
    wait_for_state(page, "idle")
    expect(page.locator("#lowered")).to_be_hidden()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["desktop", "phone"])
def test_the_details_show_the_rung_and_where_the_time_goes(
    page: Page, service: PageService, size: tuple[int, int]
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    session = go_live(page, service)
    stages = {"fill": 180.0, "queue": 40.0, "encode": 22.0, "denoise": 61.0, "decode": 18.0, "pace": 35.0}
    service.say(session.id, {"type": "stats", **session.stats(), "plan": LOWER, "stages_ms": stages})
    page.locator("#details summary").click()
    expect(page.locator("#level")).to_have_text("3/6")
    expect(page.locator("#running")).to_have_text("1 step, 8 fps, 288 \N{MULTIPLICATION SIGN} 172, full VAE")
    names = page.locator("#stages li span")
    expect(names).to_have_text(["Fill", "Queue", "Encode", "Denoise", "Decode", "Pace"])
    expect(page.locator("#stages [data-stage=fill] b")).to_have_text("180 ms")
    widths = page.evaluate(
        "[...document.querySelectorAll('#stages li')].map((it) => parseFloat(getComputedStyle(it, '::before').width))"
    )
    assert max(widths) == widths[0] > 5 * widths[2] > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_what_may_not_be_lowered_goes_with_the_offer_and_with_updates(page: Page, service: PageService) -> None:
    page.locator("#details summary").click()
    page.get_by_role("checkbox", name="Size").check()
    session = go_live(page, service)
    assert session.params["keep"] == "size"
    page.get_by_role("checkbox", name="Steps").check()
    wait_for(lambda: session.params["keep"] == "steps,size", page)
    expect(page.locator("#feedback")).to_contain_text("Applied from frame")
