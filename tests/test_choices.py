from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pipelines.causal_wan.attention import BACKENDS
from streamgen import choices
from streamgen.errors import ConfigError


def chosen(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    choices.add_arguments(parser)
    return choices.of(parser.parse_args(words))


def test_what_is_chosen_is_what_build_takes(tmp_path: Path) -> None:
    file = tmp_path / "a=b.safetensors"
    file.touch()
    assert chosen() == {"device": "auto", "threads": 0, "attention": "auto", "compiled": False, "loras": ()}
    words = ("--device", "cpu", "--threads", "2", "--attention", "sdpa", "--compile", "--lora", f"{file}=0.5")
    assert chosen(*words, "--lora", f"{file}=-1") == {
        "device": "cpu", "threads": 2, "attention": "sdpa", "compiled": True, "loras": ((file, 0.5), (file, -1.0)),
    }  # fmt: skip


def test_what_differs_from_the_defaults_is_named() -> None:
    parser = argparse.ArgumentParser()
    choices.add_arguments(parser)
    assert choices.chosen(parser.parse_args([])) == []
    words = ("--device", "cpu", "--threads", "2", "--attention", "sdpa", "--compile", "--lora", "x")
    assert choices.chosen(parser.parse_args(words)) == ["--device", "--threads", "--attention", "--compile", "--lora"]


def test_a_lora_without_a_strength_has_strength_1(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").touch()
    assert choices.parse_lora(str(tmp_path / "x.safetensors")) == (tmp_path / "x.safetensors", 1.0)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--threads", "-1"], "--threads must not be negative"),
        (["--lora", "nowhere.safetensors"], "there is no such file"),
        (["--lora", "x.safetensors=strong"], "'strong' is no number"),
        (["--lora", "~nobody-of-that-name/x=1"], "there is no such file"),
        (["--lora", "x" * 5000], "there is no such file"),
        (["--lora", "x.safetensors=nan"], "from -10 to 10"),
        (["--lora", "x.safetensors=11"], "from -10 to 10"),
    ],
)
def test_what_cannot_be_is_said(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        chosen(*words)


def test_the_attentions_offered_are_those_there_are() -> None:
    assert set(choices.ATTENTIONS) == {"auto", *BACKENDS}
