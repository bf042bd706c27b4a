from __future__ import annotations

import importlib.util

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
