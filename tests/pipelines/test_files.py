from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import PRESETS
from pipelines.causal_wan.codec_choice import HALVES, CodecChoice
from pipelines.files import WeightFile, files_of, gigabytes, locate, models_folder, sha256_of
from streamgen.errors import WeightsError

FILE = WeightFile("dit", "owner/name", "c0ffee", "folder/model.pt", 5)


def test_models_lie_where_the_user_wants_them() -> None:
    assert models_folder({"STREAMGEN_MODELS": "/data/models"}) == Path("/data/models")
    assert models_folder({"XDG_CACHE_HOME": "/cache"}) == Path("/cache/streamgen/models")
    assert models_folder({}) == Path.home() / ".cache/streamgen/models"
    assert models_folder({"STREAMGEN_MODELS": "~/m"}) == Path.home() / "m"


def test_a_file_is_known_by_its_place_and_its_size(tmp_path: Path) -> None:
    assert FILE.state(tmp_path) == "missing"
    place = FILE.place(tmp_path)
    assert place == tmp_path / "owner/name/folder/model.pt"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"1234")
    assert FILE.state(tmp_path) == "incomplete"
    place.write_bytes(b"12345")
    assert FILE.state(tmp_path) == "here"


def test_every_source_has_its_address() -> None:
    assert FILE.url == "https://huggingface.co/owner/name/resolve/c0ffee/folder/model.pt"
    github = replace(FILE, host="github")
    assert github.url == "https://raw.githubusercontent.com/owner/name/c0ffee/folder/model.pt"


def test_a_checksum_is_that_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40000  # more than one piece
    (tmp_path / "file").write_bytes(content)
    seen: list[int] = []
    assert sha256_of(tmp_path / "file", seen.append) == hashlib.sha256(content).hexdigest()
    assert len(seen) > 1
    assert sum(seen) == len(content)


@pytest.mark.parametrize(("size", "text"), [(5676282858, "5.7 GB"), (507609880, "0.5 GB"), (22678901, "23 MB")])
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert gigabytes(size) == text


@pytest.mark.parametrize("name", ["wan-1.3b", "wan-14b"])
def test_the_presets_files_are_whole_entries(name: str) -> None:
    files = files_of(PRESETS[name])
    assert {file.role for file in files} == {"dit", "text_encoder", "tokenizer", "taehv", "wan_vae"}
    for file in files:
        assert re.fullmatch("[0-9a-f]{40}", file.revision)
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.bytes > 10_000_000
        assert ".." not in file.path
    assert len({file.place(Path()) for file in files}) == len(files)


@pytest.mark.parametrize("name", ["wan-1.3b", "wan-14b"])
def test_whatever_codecs_are_chosen_their_files_are_listed(name: str) -> None:
    listed = {file.role for file in files_of(PRESETS[name])}
    for i, light in enumerate(HALVES):
        assert CodecChoice(light).roles <= listed
        for full in list(HALVES)[i + 1 :]:
            assert CodecChoice(full, light).roles <= listed


def test_presets_share_what_they_have_in_common() -> None:
    small, large = ({file.role: file for file in files_of(PRESETS[name])} for name in ("wan-1.3b", "wan-14b"))
    assert {role for role in small if small[role] == large[role]} == {"text_encoder", "tokenizer", "taehv", "wan_vae"}


def test_files_are_located_by_role_or_the_command_is_named(tmp_path: Path) -> None:
    preset = PRESETS["wan-1.3b"]
    with pytest.raises(
        WeightsError, match=r"5 of the 5 weight files .* \(17.6 GB\).*streamgen models pull wan-1.3b"
    ) as e:
        locate(preset, tmp_path)
    assert "\n" not in e.value.message
    for file in files_of(preset):
        file.place(tmp_path).parent.mkdir(parents=True, exist_ok=True)
        file.place(tmp_path).write_bytes(b"other weights of the same kind")
    assert locate(preset, tmp_path)["dit"] == tmp_path / "jerryfeng/StreamDiffusionV2/wan_causal_dmd_v2v/model.pt"
    assert set(locate(preset, tmp_path)) == {"dit", "text_encoder", "tokenizer", "taehv", "wan_vae"}


def test_a_preset_that_ships_with_its_weights_has_no_files() -> None:
    assert files_of(PRESETS["tiny"]) == ()
    assert locate(PRESETS["tiny"], Path("/nowhere")) == {}
