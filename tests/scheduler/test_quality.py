from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fake import FAKE_SPEC
from streamgen.core import LOWERED, Params
from streamgen.errors import ParamsError
from streamgen.scheduler.quality import LEAST_FPS, LEAST_SIDE, asked, at, ladder

LIGHT = replace(FAKE_SPEC, light_vae=True)


def test_steps_go_first_then_the_frame_rate_the_size_and_the_vae() -> None:
    assert [tuple(rung) for rung in ladder(Params(), LIGHT)] == [
        (2, 16.0, 320, 192, "full"),
        (1, 16.0, 320, 192, "full"),
        (1, 12.0, 320, 192, "full"),
        (1, 8.0, 320, 192, "full"),
        (1, 8.0, 240, 144, "full"),
        (1, 8.0, 160, 96, "full"),
        (1, 8.0, 160, 96, "light"),
    ]


def test_what_is_to_be_kept_is_kept() -> None:
    assert len(ladder(Params(keep="steps,fps,size,vae"), LIGHT)) == 1
    assert [rung.steps for rung in ladder(Params(steps=3, keep="fps,size,vae"), LIGHT)] == [3, 2, 1]
    assert {rung.fps for rung in ladder(Params(keep="fps"), LIGHT)} == {16.0}


def test_there_is_no_rung_for_a_vae_that_is_not_there() -> None:
    assert {rung.vae for rung in ladder(Params(), FAKE_SPEC)} == {"full"}
    assert {rung.vae for rung in ladder(Params(vae="light"), LIGHT)} == {"light"}


params = st.builds(
    Params,
    steps=st.integers(1, 4),
    fps=st.floats(1, 60),
    width=st.integers(4, 40).map(lambda n: 16 * n),
    height=st.integers(4, 40).map(lambda n: 16 * n),
    keep=st.lists(st.sampled_from(LOWERED), unique=True).map(",".join),
)


@given(params)
def test_every_rung_can_be_run_and_is_lighter_than_the_one_before(wish: Params) -> None:
    rungs = ladder(wish, LIGHT)
    assert rungs[0] == asked(wish)
    for rung in rungs:
        LIGHT.check(at(wish, rung))
        assert rung.fps >= min(LEAST_FPS, wish.fps)
        assert min(rung.width, rung.height) >= min(LEAST_SIDE, wish.width, wish.height)
    for before, after in pairwise(rungs):
        changed = [name for name in before._fields if getattr(before, name) != getattr(after, name)]
        assert set(changed) in ({"steps"}, {"fps"}, {"vae"}, {"width"}, {"height"}, {"width", "height"})
        kept = {"width": "size", "height": "size"}
        assert not wish.kept & {kept.get(name, name) for name in changed}
        assert after.vae == "light" or (after.steps, after.fps, after.width * after.height) < (
            before.steps,
            before.fps,
            before.width * before.height,
        )


@pytest.mark.parametrize("keep", ["all", "steps fps", "steps,", "steps,steps2"])
def test_what_is_to_be_kept_has_to_have_a_known_name(keep: str) -> None:
    with pytest.raises(ParamsError, match="keep: must be steps or fps or size or vae"):
        Params(keep=keep)
