from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from streamgen.config import cost_folder
from streamgen.costfile import CostFile, begun, load
from streamgen.engine import StageTimes
from streamgen.scheduler.cost import UNKNOWN, CostModel, Shape

SHAPE = Shape(4, 320, 192)


def times(seconds: float = 0.1, chunks: int = 1) -> StageTimes:
    return StageTimes(0.001, 0.02, seconds * chunks, 0.04, chunks, 2, 2 * chunks, chunks)


MODEL = UNKNOWN.observed(SHAPE, times()).observed(Shape(1, 320, 192, "light"), times())


def test_what_was_saved_is_loaded_again(tmp_path: Path) -> None:
    CostFile(tmp_path / "costs", "tiny", "cpu: some model, 2 threads").save(MODEL)
    assert CostFile(tmp_path / "costs", "tiny", "cpu: some model, 2 threads").load() == MODEL
    assert [path.suffix for path in (tmp_path / "costs").iterdir()] == [".json"]


def test_a_file_can_be_read_by_its_path(tmp_path: Path) -> None:
    file = CostFile(tmp_path, "tiny", "cpu")
    file.save(MODEL)
    assert load(file.path) == MODEL
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere.json")


def test_presets_and_devices_have_files_of_their_own(tmp_path: Path) -> None:
    CostFile(tmp_path, "tiny", "cpu").save(MODEL)
    assert CostFile(tmp_path, "tiny", "cpu/").load() == UNKNOWN
    assert CostFile(tmp_path, "tiny-cpu", "").load() == UNKNOWN
    assert CostFile(tmp_path, "../../x", "/etc").path.parent == tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"version": 0, "lines": []}',
        '{"version": 1, "lines": [{}]}',
        json.dumps({"version": 1, "lines": [{"stage": "dance"}]}),
        json.dumps(
            {
                "version": 1,
                "lines": [
                    {"stage": "encode", "frames": 4, "width": 64, "height": 64, "vae": "full"}
                    | {"fixed_s": float("nan"), "row_s": 0, "error": 0, "seen": 1}
                ],
            }
        ),
    ],
)
def test_a_file_that_is_none_is_not_used(text: str, tmp_path: Path) -> None:
    file = CostFile(tmp_path, "tiny", "cpu")
    file.path.write_text(text, encoding="utf-8")
    assert file.load() == UNKNOWN


def test_a_disk_that_cannot_be_written_costs_nothing_but_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        CostFile(tmp_path / "file", "tiny", "cpu").save(MODEL)
    assert "costs cannot be kept" in caplog.text


def test_a_start_begins_with_what_was_known() -> None:
    known = CostModel(MODEL.lines)
    for _ in range(30):
        known = known.observed(SHAPE, times(0.08, chunks=2))
    model = begun(known, {SHAPE: [times(0.09)]})
    assert model.line("encode", Shape(1, 320, 192, "light")) == MODEL.line("encode", Shape(1, 320, 192, "light"))
    assert 0.08 < model.costs(SHAPE, 1, 2, 2).denoise < 0.1


def test_a_start_on_a_machine_that_has_changed_begins_anew() -> None:
    model = begun(MODEL, {SHAPE: [times(0.5), times(0.5, chunks=2)]})
    assert model.costs(SHAPE, 1, 2, 2).denoise == pytest.approx(0.5)
    assert ("encode", Shape(1, 320, 192, "light")) not in model.lines


def test_costs_are_kept_in_the_users_cache(tmp_path: Path) -> None:
    assert cost_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "streamgen" / "costs"
    assert cost_folder({}) == Path.home() / ".cache" / "streamgen" / "costs"
