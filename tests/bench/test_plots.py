import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from streamgen.bench.plots import MOST_POINTS, SLICES, Latencies, Scale, bars, distribution, over_time, ticks

SVG = "{http://www.w3.org/2000/svg}"
SIZE = (500, 190)


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def classes(svg: str) -> list[str]:
    return [element.get("class", "") for element in parsed(svg).iter()]


def points(svg: str, kind: str) -> list[tuple[float, float]]:
    (path,) = (element for element in parsed(svg).iter() if element.get("class") == kind)
    numbers = [float(number) for number in re.findall(r"[\d.]+", path.get("d", ""))]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def latencies(count: int, **more) -> Latencies:
    return Latencies(np.linspace(1.0, 9.0, count), np.linspace(100.0, 300.0, count), **more)


@pytest.mark.parametrize(
    ("high", "expected"),
    [(10, [0, 2, 4, 6, 8, 10]), (0.4, [0, 0.1, 0.2, 0.3, 0.4]), (1234, [0, 500, 1000]), (0, [0])],
)
def test_ticks_are_round(high: float, expected: list[float]):
    assert ticks(high) == pytest.approx(expected)


@pytest.mark.parametrize("high", [0.0013, 0.7, 3, 19.9, 101, 4567, 1e6])
def test_there_are_some_ticks_and_not_too_many(high: float):
    found = ticks(high)
    assert 3 <= len(found) <= 6
    assert found[-1] <= high


def test_a_scale_keeps_what_is_outside_on_the_edge():
    it = Scale(0, 10, 200, 0)
    assert [it(value) for value in (-1, 0, 5, 10, 99)] == [200, 200, 100, 0, 0]
    assert Scale(0, 0, 5, 9)(3) == 5


def test_a_few_results_are_a_line_through_each():
    svg = over_time(latencies(20), 400, 10, SIZE)
    line = points(svg, "line")
    assert len(line) == 20
    assert line == sorted(line)
    assert line[0][1] > line[-1][1]  # slower is higher up
    assert "limit" not in classes(svg)
    assert "wait" not in classes(svg)


def test_many_results_are_a_median_and_a_span():
    svg = over_time(latencies(MOST_POINTS * 4), 400, 10, SIZE)
    assert len(points(svg, "line")) <= SLICES
    assert len(points(svg, "band")) <= 2 * SLICES


def test_the_slo_the_wait_and_the_rungs_are_drawn():
    it = latencies(20, slo_ms=250.0, waited=(0.0, 4.0), rungs=[(0.0, 1), (3.0, 2), (20.0, 0)])
    svg = over_time(it, 400, 10, (500, 240), ladder=3)
    assert {"limit", "limit-text", "wait", "rung"} <= set(classes(svg))
    assert "SLO 250 ms" in svg
    (a, b, c, d) = points(svg, "rung")
    assert a[1] == b[1] < c[1] == d[1]  # a lighter rung is lower
    assert b[0] == c[0]


def test_an_slo_beyond_the_scale_is_told_and_not_drawn():
    svg = over_time(latencies(20, slo_ms=900.0), 400, 10, SIZE)
    assert "SLO 900 ms, above" in svg
    assert "limit" not in classes(svg)


def test_a_session_that_got_nothing_has_a_plot_too():
    empty = Latencies(np.array([]), np.array([]), waited=(1.0, 9.0))
    svg = over_time(empty, 400, 10, SIZE, ladder=2)
    assert "line" not in classes(svg)
    assert "wait" in classes(svg)


def test_a_distribution_rises_to_the_right():
    each = [np.array([100.0, 200.0, 300.0]), np.array([]), np.array([50.0])]
    svg = distribution(each, np.concatenate(each), 400, 250.0, SIZE)
    assert classes(svg).count("each") == 2
    line = points(svg, "line")
    assert line == sorted(line, key=lambda point: (point[0], -point[1]))
    assert "SLO 250 ms" in svg
    assert "SLO" not in distribution(each, np.array([]), 400, 900.0, SIZE)


def test_bars_are_as_long_as_their_parts():
    svg = bars([("1", {"fill": 60.0, "denoise": 40.0}), ("2", {"fill": 30.0})], ["fill", "denoise"], 1000)
    widths = [float(rect.get("width", "")) for rect in parsed(svg).iter() if rect.tag == "rect"]
    assert len(widths) == 3
    assert widths[0] == pytest.approx(2 * widths[2], abs=2)
    assert widths[0] == pytest.approx(1.5 * widths[1], abs=2)
    assert "100 ms" in svg


def test_text_is_escaped():
    svg = bars([("<b>&", {'"><script>': 5.0})], ['"><script>'], 400)
    assert "<script>" not in svg
    assert parsed(svg).findtext("text")
    assert "<b>&" in [element.text for element in parsed(svg).iter()]
