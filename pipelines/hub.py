"""Downloads of weight files: what knows about hubs. A download that was broken off goes on where it stopped."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    XetDownloadError,
)
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined] # of its HTTP library
from huggingface_hub.file_download import http_get

from pipelines.files import WeightFile
from streamgen.errors import DownloadError


def fetch(file: WeightFile, folder: Path, endpoint: str | None = None) -> Path:
    """The file's place in `folder`, where it is now in full; a progress bar goes to stderr. Raises DownloadError.

    A file of another size there is taken for a broken one and replaced. endpoint: another hub than $HF_ENDPOINT's.
    """
    place = file.place(folder)
    if file.state(folder) == "here":
        return place
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it retries; what comes of it is told once, below
    try:
        place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.host == "github":
            _fetch_url(file, place)
        else:
            hf_hub_download(
                file.repo, file.path, revision=file.revision, local_dir=folder / file.repo, endpoint=endpoint
            )
    except (OSError, EntryNotFoundError, TransportError, XetDownloadError) as error:
        raise _explained(error, file) from error
    if file.state(folder) != "here":
        raise DownloadError(
            f"{place} has {place.stat().st_size} bytes after its download, not {file.bytes}: its source has changed"
        )
    return place


def _explained(error: Exception, file: WeightFile) -> DownloadError:
    """What an error of the download means to whoever asked for it."""
    match error:
        case GatedRepoError():
            return DownloadError(f"{file.repo} asks for an account: accept its terms there, then run: hf auth login")
        case HfHubHTTPError():
            return DownloadError(f"{file.url} cannot be had: {_one_line(error)}")
        case LocalEntryNotFoundError() | ConnectionError() | TransportError():  # the first: the library had no answer
            return DownloadError(f"no answer from the host of {file.repo}/{file.path}", offline=True)
        case _:
            return DownloadError(f"{file.repo}/{file.path} could not be fetched: {_one_line(error)}")


def _fetch_url(file: WeightFile, place: Path) -> None:
    part = place.with_name(f"{place.name}.incomplete")
    with part.open("ab") as target:
        http_get(file.url, target, resume_size=target.tell(), expected_size=file.bytes, displayed_filename=place.name)
    part.replace(place)


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
