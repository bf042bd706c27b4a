from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import hub as downloads
from pipelines.files import WeightFile
from pipelines.hub import fetch
from streamgen.errors import DownloadError
from tests.support.fake_hub import REVISION, FakeHub, fake_hub

CONTENT = bytes(range(251)) * 4000
FILE = WeightFile("dit", "owner/name", REVISION, "folder/model.pt", len(CONTENT))
ADDRESS = f"/owner/name/resolve/{REVISION}/folder/model.pt"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with fake_hub({ADDRESS: CONTENT}) as hub:
        yield hub


@pytest.fixture
def from_github(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> WeightFile:
    """The same file at a plain address."""
    file = WeightFile("taehv", "owner/name", REVISION, "folder/model.pt", len(CONTENT), host="github")
    monkeypatch.setattr(WeightFile, "url", property(lambda _: hub.address + ADDRESS))
    return file


def test_a_file_comes_to_its_place(hub: FakeHub, tmp_path: Path) -> None:
    assert fetch(FILE, tmp_path, hub.address).read_bytes() == CONTENT
    assert fetch(FILE, tmp_path, hub.address) == FILE.place(tmp_path)
    assert len(hub.ranges) == 1  # the second time it was there


def test_a_plain_address_will_do(hub: FakeHub, from_github: WeightFile, tmp_path: Path) -> None:
    assert fetch(from_github, tmp_path).read_bytes() == CONTENT
    assert list(FILE.place(tmp_path).parent.iterdir()) == [FILE.place(tmp_path)]  # nothing else is left


def test_a_download_that_broke_off_goes_on_where_it_stopped(
    hub: FakeHub, from_github: WeightFile, tmp_path: Path
) -> None:
    part = FILE.place(tmp_path).with_name("model.pt.incomplete")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    assert fetch(from_github, tmp_path).read_bytes() == CONTENT
    assert hub.ranges == [(ADDRESS, "bytes=1000-")]


def test_a_connection_that_breaks_is_taken_up_again(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.breaks = 1
    assert fetch(FILE, tmp_path, hub.address).read_bytes() == CONTENT
    assert hub.ranges[0] == (ADDRESS, None)
    assert hub.ranges[1][1] is not None
    assert int(hub.ranges[1][1].removeprefix("bytes=").rstrip("-")) > 0


def test_a_file_of_another_size_is_replaced(hub: FakeHub, tmp_path: Path) -> None:
    place = FILE.place(tmp_path)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"the beginning")
    assert fetch(FILE, tmp_path, hub.address).read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_named(hub: FakeHub, tmp_path: Path) -> None:
    hub.files.clear()
    with pytest.raises(DownloadError, match=r"owner/name/resolve/.*/folder/model\.pt cannot be had") as error:
        fetch(FILE, tmp_path, hub.address)
    assert not error.value.offline
    assert "\n" not in error.value.message


def test_a_source_that_changed_is_told(hub: FakeHub, tmp_path: Path) -> None:
    hub.files[ADDRESS] = CONTENT + b"more"
    with pytest.raises(DownloadError, match=f"{len(CONTENT) + 4} bytes after its download, not {len(CONTENT)}"):
        fetch(FILE, tmp_path, hub.address)


def test_no_answer_means_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(DownloadError, match=r"no answer from the host of owner/name/folder/model\.pt") as error:
        fetch(FILE, tmp_path, "http://127.0.0.1:9")
    assert error.value.offline
    monkeypatch.setattr(WeightFile, "url", property(lambda _: "http://127.0.0.1:9/x"))
    plain = WeightFile("taehv", "owner/name", REVISION, "model.pt", 3, host="github")
    with pytest.raises(DownloadError) as error:
        fetch(plain, tmp_path)
    assert error.value.offline


def test_a_full_disk_is_not_taken_for_a_missing_network(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads, "hf_hub_download", full)
    with pytest.raises(DownloadError, match=r"could not be fetched: .*No space left") as error:
        fetch(FILE, tmp_path, hub.address)
    assert not error.value.offline
