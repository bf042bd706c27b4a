from __future__ import annotations

import pytest


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a Workshop stands still while nothing runs."""
    monkeypatch.setattr("streamgen.jobs.job.PAUSE_S", 0.0)
