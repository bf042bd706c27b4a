from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines import build
from pipelines.fake import FakePipeline
from pipelines.fake_flow import FakeFlow
from pipelines.fake_preset import build_fake
from pipelines.registry import PRESETS, Choices
from streamgen.errors import PresetError


def test_the_presets_costs_can_be_changed_from_outside() -> None:
    preset, slept = PRESETS["fake"], list[float]()
    pipeline = build_fake(preset, Choices(), {"STREAMGEN_FAKE_COST": "encode_s=0.5,light_decode_s=0.1"})
    assert pipeline.spec.light_vae
    assert pipeline.spec.device != build_fake(preset, Choices(), {}).spec.device
    pipeline._sleep = slept.append
    state = pipeline.open(pipeline.spec.defaults)
    pipeline.encode([(state, np.zeros((4, 192, 320, 3), np.uint8))])
    assert slept == [0.5]


@pytest.mark.parametrize(
    "text",
    [
        *("encode_s", "encode_s=fast", "encode_s=-1", "per_pixel=1", "nothing=1", "encode_s=nan"),
        *("stages=0", "stages=1.5", "stages=65", "flight=-1", "flight="),
    ],
)
def test_costs_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(PresetError, match="STREAMGEN_FAKE_COST"):
        build_fake(PRESETS["fake"], Choices(), {"STREAMGEN_FAKE_COST": text})


def test_there_is_no_model_for_a_lora_file() -> None:
    with pytest.raises(PresetError, match="LoRA"):
        build_fake(PRESETS["fake"], Choices(loras=((Path("x.safetensors"), 1.0),)), {})


def test_with_stages_it_is_a_flow() -> None:
    def built(text: str) -> FakePipeline:
        pipeline = build_fake(PRESETS["fake"], Choices(), {"STREAMGEN_FAKE_COST": text})
        if isinstance(pipeline, FakeFlow):
            pipeline.end()
        return pipeline

    three = built("stages=3,step_s=0.01")
    assert isinstance(three, FakeFlow)
    assert (three.spec.stages, three.spec.flight) == (3, 3)
    assert (built("stages=3,flight=2").spec.stages, built("stages=3,flight=2").spec.flight) == (3, 2)
    assert isinstance(built("flight=2"), FakeFlow)  # one device may have a flow, too
    for ordinary in ("", "stages=1"):
        assert not isinstance(built(ordinary), FakeFlow)
    assert len({built(text).spec.device for text in ("", "stages=2", "stages=3")}) == 3  # costs are kept apart


def test_it_is_found_by_its_name() -> None:
    assert build("fake").spec.name == "fake"
