from __future__ import annotations

import hashlib
import shutil
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import pipelines
from pipelines import hub as downloads
from pipelines.files import WeightFile, files_of
from streamgen import cli, models
from streamgen.errors import DownloadError
from tests.support.fake_hub import REVISION, fake_hub

CONTENT = {"model.pt": b"weights" * 1000, "google/tokenizer.json": b"{}" * 100}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        status = cli.main(("models", *words), {})
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where models lie, and a preset `small` with two small files."""
    monkeypatch.setenv("STREAMGEN_MODELS", str(tmp_path / "models"))
    files = [
        {"role": "dit", "repo": "owner/name", "revision": REVISION, "path": path, "bytes": len(content),
         "sha256": hashlib.sha256(content).hexdigest() if path == "model.pt" else None}
        for path, content in CONTENT.items()
    ]  # fmt: skip
    wan = pipelines.PRESETS["wan-1.3b"]
    small = replace(wan, name="small", settings={**wan.settings, "files": files})
    presets = MappingProxyType({"small": small, "tiny": pipelines.PRESETS["tiny"]})
    monkeypatch.setattr(pipelines, "PRESETS", presets)
    return tmp_path / "models"


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with fake_hub({f"/owner/name/resolve/{REVISION}/{path}": content for path, content in CONTENT.items()}) as hub:
        fetch = downloads.fetch
        monkeypatch.setattr(downloads, "fetch", lambda file, at: fetch(file, at, hub.address))
        yield hub


def test_the_list_says_what_each_takes(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    status, out, err = run(capsys, "list")
    assert (status, err) == (0, "")
    small, tiny = out.splitlines()
    assert small.startswith("small  Wan 2.1, 1.3B (832x480, 16 fps, 2 steps).")
    assert "to download with: streamgen models pull small" in small
    assert "of device memory and" in small
    assert "pull" not in tiny
    put(folder)
    assert "MB, here." in run(capsys, "list")[1].splitlines()[0]


def put(folder: Path, **changes: bytes) -> None:
    for path, content in CONTENT.items():
        place = folder / "owner/name" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(changes.get(path.partition(".")[0].rpartition("/")[2], content))


def test_a_dry_run_says_what_would_come_and_fetches_nothing(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    status, out, err = run(capsys, "pull", "small", "--dry-run")
    assert (status, err) == (0, "")
    for path in CONTENT:
        assert f"https://huggingface.co/owner/name/resolve/{REVISION}/{path}  ->  {folder}/owner/name/{path}" in out
    assert not folder.exists()


def test_a_pull_brings_everything_and_checks_it(capsys: pytest.CaptureFixture[str], folder: Path, hub: Any) -> None:
    status, out, _ = run(capsys, "pull", "small")
    assert status == 0
    assert out.splitlines()[-1] == f"small is complete in {folder}."
    assert (folder / "owner/name/model.pt").read_bytes() == CONTENT["model.pt"]
    assert run(capsys, "verify", "small")[0] == 0
    asked = len(hub.ranges)
    status, out, _ = run(capsys, "pull", "small")
    assert (status, len(hub.ranges)) == (0, asked)
    assert "models verify small" in out


def test_only_what_is_missing_is_fetched(capsys: pytest.CaptureFixture[str], folder: Path, hub: Any) -> None:
    put(folder)
    (folder / "owner/name/model.pt").unlink()
    assert run(capsys, "pull", "small")[0] == 0
    assert [path.rpartition("/")[2] for path, _ in hub.ranges] == ["model.pt"]


def test_what_comes_damaged_is_told(capsys: pytest.CaptureFixture[str], folder: Path, hub: Any) -> None:
    address = f"/owner/name/resolve/{REVISION}/model.pt"
    hub.files[address] = b"x" * len(CONTENT["model.pt"])
    status, _, err = run(capsys, "pull", "small")
    assert status == 1
    assert "model.pt (damaged: its checksum is not the published one; delete it)" in err


def test_without_a_network_one_message_says_which_files_go_where(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(file: WeightFile, _: Path) -> None:
        raise DownloadError(f"no answer from the host of {file.repo}/{file.path}", offline=True)

    monkeypatch.setattr(downloads, "fetch", offline)
    status, out, err = run(capsys, "pull", "small")
    assert status == 1
    assert err.count("\n") == 1
    assert f"copy the files listed above from another machine to the places listed beside them (in {folder};" in err
    assert "then run: streamgen models verify small" in err
    for path in CONTENT:
        assert str(folder / "owner/name" / path) in out


def test_other_failures_are_told_as_they_are(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gated(*_: object) -> None:
        raise DownloadError("owner/name asks for an account")

    monkeypatch.setattr(downloads, "fetch", gated)
    assert run(capsys, "pull", "small")[2] == "error: owner/name asks for an account\n"


def test_a_disk_that_is_too_small_is_told_before(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 5))
    status, _, err = run(capsys, "pull", "small")
    assert status == 1
    assert "do not fit" in err
    assert "STREAMGEN_MODELS" in err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": b"short"}, "model.pt: damaged: 5 bytes instead of 7000"),
        ({"model": b"W" + CONTENT["model.pt"][1:]}, "model.pt: damaged: its checksum is not the published one"),
        ({"tokenizer": b"[]" * 99}, "tokenizer.json: damaged: 198 bytes instead of 200"),
    ],
)
def test_damage_is_found_and_named(
    capsys: pytest.CaptureFixture[str], folder: Path, changes: dict[str, bytes], said: str
) -> None:
    put(folder, **changes)
    status, out, err = run(capsys, "verify", "small")
    assert status == 1
    assert said in out
    assert "1 of the files cannot be used" in err
    assert "streamgen models pull small" in err


def test_what_is_whole_is_said_to_be(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert "model.pt: missing" in run(capsys, "verify", "small")[1]
    put(folder)
    status, out, err = run(capsys, "verify", "small")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{folder}/owner/name/model.pt: ok",
        f"{folder}/owner/name/google/tokenizer.json: ok (by its size; no checksum of it is published)",
        "small is complete.",
    ]


def test_shipped_weights_need_no_download(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(capsys, "pull", "tiny") == (0, "tiny comes complete; there is nothing to download.\n", "")
    tiny = replace(pipelines.PRESETS["tiny"], folder=tmp_path)
    monkeypatch.setattr(pipelines, "PRESETS", {"tiny": tiny})
    status, _, err = run(capsys, "verify", "tiny")
    assert (status, err) == (1, f"error: {tmp_path}/autoencoder.safetensors is missing; install the package again\n")
    for part in ("autoencoder", "dit", "text"):
        (tmp_path / f"{part}.safetensors").touch()
    assert run(capsys, "verify", "tiny")[0] == 0


@pytest.mark.parametrize("verb", ["pull", "verify"])
def test_an_unknown_preset_names_the_known(capsys: pytest.CaptureFixture[str], folder: Path, verb: str) -> None:
    assert run(capsys, verb, "huge") == (1, "", "error: no preset 'huge'; there are small, tiny\n")


def test_the_doctor_learns_what_presets_need(folder: Path) -> None:
    small, tiny = models.needs()
    assert small.missing_bytes == sum(map(len, CONTENT.values()))
    assert small.needs_gpu
    assert small.weights_bytes > 2.8e9
    assert (tiny.missing_bytes, tiny.needs_gpu) == (0, False)
    put(folder)
    assert models.needs()[0].missing_bytes == 0


def test_a_light_codec_is_pulled_verified_and_counted_beside_the_full_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMGEN_MODELS", str(tmp_path))
    wan = pipelines.PRESETS["wan-1.3b"]
    both = replace(wan, settings={**wan.settings, "codec": "wan", "light_codec": "taehv"})
    monkeypatch.setattr(pipelines, "PRESETS", {"single": wan, "both": both})
    pulled, verified = run(capsys, "pull", "both", "--dry-run")[1], run(capsys, "verify", "both")[1]
    for path in ("madebyollin/taehv/taew2_1.pth", "Wan-AI/Wan2.1-T2V-1.3B/Wan2.1_VAE.pth"):
        assert f"->  {tmp_path}/{path}\n" in pulled
        assert f"{tmp_path}/{path}: missing\n" in verified
    single, double = models.needs()
    assert double.weights_bytes - single.weights_bytes == pytest.approx(0.25e9, rel=0.02)
    assert double.session_bytes > single.session_bytes
    assert double.missing_bytes == single.missing_bytes


def test_the_real_presets_are_in_the_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMGEN_MODELS", str(tmp_path))
    out = run(capsys, "list")[1]
    assert [line.split()[0] for line in out.splitlines()] == ["fake", "passthrough", "tiny", "wan-1.3b", "wan-14b"]
    assert "17.6 GB to download" in out
    assert files_of(pipelines.PRESETS["wan-14b"])
