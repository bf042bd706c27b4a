"""The weight files of presets: which there are, where they come from, where they lie on this machine.

A file lies at FOLDER/REPO/PATH, so that presets share what they have in common (Wan's text encoder takes 11 GB).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.registry import Preset
from streamgen.errors import WeightsError

State = Literal["here", "missing", "incomplete"]

_BLOCK = 8 * 2**20


@dataclass(frozen=True)
class WeightFile:
    """One file of a preset, at its source."""

    role: str
    """What the preset's builder asks for it by: dit, text_encoder, tokenizer, taehv, wan_vae."""
    repo: str
    """owner/name."""
    revision: str
    """The commit that the file is taken of."""
    path: str
    """Within the repository."""
    bytes: int
    sha256: str | None = None
    """None where it is not publicly known."""
    host: Literal["huggingface", "github"] = "huggingface"

    @property
    def url(self) -> str:
        if self.host == "github":
            return f"https://raw.githubusercontent.com/{self.repo}/{self.revision}/{self.path}"
        return f"https://huggingface.co/{self.repo}/resolve/{self.revision}/{self.path}"

    def place(self, folder: Path) -> Path:
        """Where it lies in the folder of all models."""
        return folder / self.repo / self.path

    def state(self, folder: Path) -> State:
        """Whether it is there in its full size; its content is not looked at."""
        try:
            size = self.place(folder).stat().st_size
        except OSError:
            return "missing"
        return "here" if size == self.bytes else "incomplete"


def models_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where all downloaded weights lie: $STREAMGEN_MODELS, or streamgen/models in the user's cache."""
    if environ.get("STREAMGEN_MODELS"):
        return Path(environ["STREAMGEN_MODELS"]).expanduser()
    cache = Path(environ["XDG_CACHE_HOME"]) if environ.get("XDG_CACHE_HOME") else Path.home() / ".cache"
    return cache / "streamgen" / "models"


def files_of(preset: Preset) -> tuple[WeightFile, ...]:
    """The files that a preset takes from elsewhere; none where it ships with its weights."""
    return tuple(WeightFile(**entry) for entry in preset.settings.get("files", ()))


def locate(preset: Preset, folder: Path | None = None) -> dict[str, Path]:
    """The places of a preset's files by role, each of them there. Raises WeightsError that says how to get them.

    Sizes are not compared: whoever put other weights of the same kind there meant them.
    """
    at = folder or models_folder()
    files = files_of(preset)
    absent = [file for file in files if file.state(at) == "missing"]
    if absent:
        size = sum(file.bytes for file in absent)
        raise WeightsError(
            f"{len(absent)} of the {len(files)} weight files of {preset.name} are missing in {at} ({gigabytes(size)}),"
            f" the first being {absent[0].repo}/{absent[0].path}; run: streamgen models pull {preset.name}"
        )
    return {file.role: file.place(at) for file in files}


def sha256_of(path: Path, progress: Callable[[int], object] = lambda _: None) -> str:
    """The checksum of a file; `progress` gets the bytes of each piece as it is read. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()


def gigabytes(size: int) -> str:
    """A size for people: 5.7 GB, 23 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
