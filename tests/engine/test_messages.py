from __future__ import annotations

import pytest

from streamgen.engine.messages import one_line, told
from streamgen.errors import ParamsError, WeightsError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("bad\n  thing"), "ValueError: bad thing"),
        (KeyError("name"), "KeyError: 'name'"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_told_keeps_code_and_words_of_our_own_errors() -> None:
    assert told(ParamsError("steps", "too many")) == ("bad_params", "steps: too many")
    assert told(WeightsError("missing:\n  a\n  b")) == ("bad_weights", "missing: a b")
    assert told(ValueError("x")) == ("engine_failed", "ValueError: x")


def test_one_line_is_short() -> None:
    assert len(one_line(RuntimeError("x" * 10_000))) == 500
