from pathlib import Path

import pytest

from streamgen.bench.trace import Arrival, constant, ramp, read_trace
from streamgen.errors import ConfigError

LIKE = Arrival(20.0, 16.0, 320, 192, params={"prompt": "cat", "slo_ms": 900.0})

CSV = """start_s, seconds, fps, width, height, slo_ms, prompt, steps
0, 30, 12, 256, 144, 800, "pencil, soft", 2

2.5, , , , , , neon,
"""
JSON = """[
  {"start_s": 0, "seconds": 30, "fps": 12, "width": 256, "height": 144, "slo_ms": 800, "prompt": "pencil, soft",
   "steps": 2},
  {"start_s": 2.5, "prompt": "neon"}
]
"""
READ = (
    Arrival(30.0, 12.0, 256, 144, 0.0, {"prompt": "pencil, soft", "slo_ms": 800.0, "steps": 2}),
    Arrival(20.0, 16.0, 320, 192, 2.5, {"prompt": "neon", "slo_ms": 900.0}),
)


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "trace"
    file.write_text(text)
    return file


@pytest.mark.parametrize("text", [CSV, JSON, "\ufeff" + CSV])
def test_a_trace_in_either_form(tmp_path: Path, text: str):
    assert read_trace(written(tmp_path, text), LIKE) == READ
    assert [it.slo_ms for it in READ] == [800.0, 900.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("start_s,colour\n0,red\n", ":2: unknown column 'colour'; known are start_s, seconds, prompt"),
        ("start_s,stamp\n0,1\n", ":2: unknown column 'stamp'"),
        ("start_s\n0\nsoon\n", ":3: start_s: 'soon' is no number"),
        ("start_s\n0\n-1\n", ":3: start_s must be at least 0, not -1"),
        ("start_s\nnan\n", ":2: start_s must be at least 0, not nan"),
        ("start_s,seconds\n0,0\n", ":2: seconds must be above 0, not 0"),
        ("start_s,width\n0,100\n", ":2: width must be at least 128, not 100"),
        ("start_s,height\n0,10\n", ":2: height must be at least 64"),
        ("start_s,width\n0,320.5\n", ":2: width: '320.5' is no whole number"),
        ("start_s,steps\n0,99\n", ":2: steps: "),
        ("start_s,fps\n0,0\n", ":2: fps: "),
        ("start_s,fps\n0\n", ":2: 1 cells under a header of 2"),
        ("start_s,start_s\n0,1\n", ":1: a column comes twice"),
        ('start_s,prompt\n0,"cat\n', ":2: unexpected end of data"),
        ("start_s\n", " holds 0 sessions; from 1 to 1000"),
        ("", " holds 0 sessions"),
        ("start_s\n" + "0\n" * 1001, " holds 1001 sessions"),
        ('[\n{"start_s": 0},\n{"start_s": 1,}\n]', ":3: no JSON"),
        ('[\n{"start_s": 0},\n\n{"start_s": true}]', ":4: start_s: 'True' is no number"),
        ('[{"prompt": 3}]', ":1: prompt: '3' is no text"),
        ("[{},\n 7]", ":2: a session must be an object"),
        ('{"start_s": 0}', ":1: the trace must be a list of objects"),
        ("[" * 100_000, ":1: no"),
    ],
)
def test_a_bad_one_is_told_in_one_line_with_its_place(tmp_path: Path, text: str, says: str):
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_trace(file, LIKE)
    message = str(caught.value)
    assert message.startswith(f"{file}{says}")
    assert "\n" not in message


def test_a_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot read .*none: No such file"):
        read_trace(tmp_path / "none", LIKE)
    (tmp_path / "noise").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        read_trace(tmp_path / "noise", LIKE)


def test_a_ramp_rises_over_the_first_half_and_falls_over_the_second():
    it = ramp(LIKE, 5)
    assert [arrival.start_s for arrival in it] == [0.0, 2.5, 5.0, 7.5, 10.0]
    assert {arrival.seconds for arrival in it} == {10.0}
    assert it[0].params == LIKE.params
    assert [(arrival.start_s, arrival.seconds) for arrival in ramp(LIKE, 1)] == [(0.0, 20.0)]


def test_a_ramp_so_far_apart():
    it = ramp(LIKE, 3, 2.0)
    assert [(arrival.start_s, arrival.seconds) for arrival in it] == [(0.0, 16.0), (2.0, 16.0), (4.0, 16.0)]
    with pytest.raises(ConfigError, match="11 sessions 2 s apart do not fit into 20 s"):
        ramp(LIKE, 11, 2.0)


def test_a_constant_load_comes_at_once():
    assert constant(LIKE, 2) == (LIKE, LIKE)


def test_a_batch_has_no_budget():
    assert LIKE.slo_ms == 900.0
    assert LIKE.with_values({"priority": "batch"}).slo_ms is None
