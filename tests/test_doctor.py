from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from streamgen import doctor


def test_this_machine_can_run_it() -> None:
    findings = list(doctor.examine())
    assert not [finding for finding in findings if finding.level == "missing"]
    assert any("H264" in finding.text for finding in findings)


def test_what_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    missing = [finding.text for finding in doctor.examine() if finding.level == "missing"]
    assert any(text.startswith("torch") and "pip install" in text for text in missing)


def preset(**changes: Any) -> doctor.PresetNeeds:
    needs = doctor.PresetNeeds(
        name="wan",
        weights_bytes=3 * 10**9,
        session_bytes=2 * 10**9,
        prompt_bytes=10**9,
        missing_bytes=0,
        needs_gpu=True,
    )
    return replace(needs, **changes)


def told(monkeypatch: pytest.MonkeyPatch, needs: doctor.PresetNeeds, *gpus: int) -> list[tuple[str, str]]:
    found = [doctor.Gpu(f"GPU {i}", size * 10**9) for i, size in enumerate(gpus)]
    monkeypatch.setattr(doctor, "_gpus", lambda: found)
    return [(f.level, f.text) for f in doctor.examine([needs]) if f.text.startswith("preset wan")]


def test_presets_are_held_against_the_devices_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    takes = "preset wan takes 3.0 GB, and 2.0 GB a session, and 1.0 GB while it reads a prompt"
    assert told(monkeypatch, preset(), 9, 24) == [("ok", f"{takes}: GPU 1 has memory for 10 sessions")]
    assert told(monkeypatch, preset(), 5) == [("note", f"{takes}: more than GPU 0 has; choose a smaller preset")]
    assert told(monkeypatch, preset()) == [("note", f"{takes}; it needs a CUDA GPU to run live")]
    small = preset(needs_gpu=False, prompt_bytes=0, session_bytes=5 * 10**6)
    assert told(monkeypatch, small) == [("ok", "preset wan takes 3.0 GB, and 5 MB a session")]


def test_placements_are_told_where_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[doctor.Gpu]] = []

    def placements(gpus: Sequence[doctor.Gpu]) -> list[doctor.Finding]:
        asked.append(list(gpus))
        return [doctor.Finding("ok", "placement of wan: 2 x 1")]

    found = [doctor.Gpu("GPU", 10**9)] * 2
    monkeypatch.setattr(doctor, "_gpus", lambda: found)
    assert "placement of wan: 2 x 1" in [finding.text for finding in doctor.examine([], placements)]
    monkeypatch.setattr(doctor, "_gpus", list)
    assert "placement of wan: 2 x 1" not in [finding.text for finding in doctor.examine([], placements)]
    assert asked == [found]


def test_missing_weights_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(monkeypatch, preset(missing_bytes=17 * 10**9))
    assert found[0] == (
        "note", "preset wan lacks 17.0 GB of its weights; get them with: streamgen models pull wan",
    )  # fmt: skip


def test_missing_extras_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    absent = ("xformers", "torch_tensorrt", "ray")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else real(name))
    monkeypatch.setattr(doctor, "_gpus", list)
    texts = [finding.text for finding in doctor.examine()]
    assert "extra cluster lacks ray; add it with: pip install 'streamgen[cluster]'" in texts
    assert not any(text.startswith("extra gpu") for text in texts)  # of no use without a GPU
    monkeypatch.setattr(doctor, "_gpus", lambda: [doctor.Gpu("GPU", 10**9)])
    texts = [finding.text for finding in doctor.examine()]
    assert "extra gpu lacks xformers, torch_tensorrt; add it with: pip install 'streamgen[gpu]'" in texts
