from __future__ import annotations

import pytest
import torch

from pipelines.causal_wan.blend import PromptBlend

OLD, NEW, THIRD = torch.zeros(1, 2, 3), torch.full((1, 2, 3), 8.0), torch.full((1, 2, 3), -8.0)


def shown(blend: PromptBlend, chunks: int) -> list[float]:
    return [float(blend.next()[0, 0, 0]) for _ in range(chunks)]


def test_without_a_turn_the_first_prompt_stays() -> None:
    blend = PromptBlend(OLD)
    assert not blend.moving
    assert blend.next() is OLD


def test_it_moves_in_equal_parts_and_arrives_at_the_very_tensor() -> None:
    blend = PromptBlend(OLD)
    blend.turn(NEW, 4)
    assert shown(blend, 3) == [2.0, 4.0, 6.0]
    assert blend.moving
    assert blend.next() is NEW
    assert not blend.moving
    assert blend.next() is NEW


@pytest.mark.parametrize("chunks", [0, 1])
def test_no_chunks_and_one_mean_at_once(chunks: int) -> None:
    blend = PromptBlend(OLD)
    blend.turn(NEW, chunks)
    assert blend.next() is NEW


def test_a_turn_on_the_way_starts_from_what_is_shown() -> None:
    blend = PromptBlend(OLD)
    blend.turn(NEW, 4)
    assert shown(blend, 2) == [2.0, 4.0]
    blend.turn(THIRD, 3)
    assert shown(blend, 4) == pytest.approx([0.0, -4.0, -8.0, -8.0], abs=1e-6)


def test_a_turn_to_what_is_shown_moves_nothing() -> None:
    blend = PromptBlend(OLD)
    blend.turn(OLD, 5)
    assert not blend.moving


def test_a_negative_number_of_chunks_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 chunks"):
        PromptBlend(OLD).turn(NEW, -1)


def test_the_embeddings_given_are_left_as_they_are() -> None:
    old, new = OLD.clone(), NEW.clone()
    blend = PromptBlend(old)
    blend.turn(new, 3)
    shown(blend, 3)
    assert torch.equal(old, OLD)
    assert torch.equal(new, NEW)
