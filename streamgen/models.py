"""`streamgen models`: the presets, their weights on this machine, and how to get and check them."""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

import pipelines
from pipelines.causal_wan.memory import memory_of
from pipelines.files import WeightFile, files_of, gigabytes, models_folder, sha256_of
from pipelines.registry import Preset
from streamgen.doctor import PresetNeeds
from streamgen.errors import DownloadError, PresetError, WeightsError

DONE = 0

_SHIPPED = ("autoencoder", "dit", "text")
"""What a preset that ships with its weights has a file for, as far as its settings name it."""

Print = Callable[[str], None]

_SPARE = 2**30
"""Bytes that a download leaves free on the disk."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own commands."""
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    verbs.add_parser("list", help="the presets, one a line").set_defaults(run=lambda _: list_presets())
    pull = verbs.add_parser("pull", help="download a preset's weights; goes on where it was broken off")
    pull.add_argument("preset", metavar="PRESET")
    pull.add_argument("--dry-run", action="store_true", help="say what would be downloaded, from where and to where")
    pull.set_defaults(run=lambda arguments: pull_preset(arguments.preset, dry_run=arguments.dry_run))
    verify = verbs.add_parser("verify", help="check a preset's weights: all there, in full, as published")
    verify.add_argument("preset", metavar="PRESET")
    verify.set_defaults(run=lambda arguments: verify_preset(arguments.preset))


def list_presets(say: Print = print) -> int:
    """One line for each preset: what it is, its weights, and the memory it takes."""
    width = max(map(len, pipelines.PRESETS))
    for preset in pipelines.PRESETS.values():
        defaults = preset.defaults
        steps = f"{defaults.steps} step{'s' if defaults.steps > 1 else ''}"
        size = f"{defaults.width}x{defaults.height}, {preset.native_fps:g} fps, {steps}"
        say(
            f"{preset.name:<{width}}  {preset.title} ({size}). {preset.description}{_weights(preset)} {_memory(preset)}"
        )
    return DONE


def pull_preset(name: str, *, dry_run: bool = False, say: Print = print) -> int:
    """Downloads what is missing of a preset's weights, and checks it.

    Raises PresetError, WeightsError (damaged, or no room), DownloadError.
    """
    preset, folder = _preset(name), models_folder()
    files = files_of(preset)
    if not files:
        say(f"{name} comes complete; there is nothing to download.")
        return DONE
    wanted = [file for file in files if file.state(folder) != "here"]
    if not wanted:
        say(f"All {len(files)} files of {name} are in {folder}; check them with: streamgen models verify {name}")
        return DONE
    for file in wanted:
        say(f"{gigabytes(file.bytes):>8}  {file.url}  ->  {file.place(folder)}")
    say(f"{gigabytes(_size(wanted)):>8}  in all, of {gigabytes(_size(files))}. {_memory(preset)}")
    if dry_run:
        return DONE
    _check_disk(folder, wanted)
    _fetch_all(name, wanted, folder)
    return _report([*_damage(wanted, folder)], f"{name} is complete in {folder}.", say)


def verify_preset(name: str, say: Print = print) -> int:
    """Checks size and checksum of each of a preset's files, one a line. Raises PresetError."""
    preset, folder = _preset(name), models_folder()
    files = files_of(preset)
    if not files:
        return _verify_shipped(preset, say)
    damage = dict(_damage(files, folder))
    for file in files:
        known = "ok" if file.sha256 else "ok (by its size; no checksum of it is published)"
        say(f"{file.place(folder)}: {damage.get(file, known)}")
    return _report([*damage.items()], f"{name} is complete.", say, f"streamgen models pull {name}")


def _verify_shipped(preset: Preset, say: Print) -> int:
    places = [preset.folder / f"{part}.safetensors" for part in _SHIPPED if part in preset.settings]
    absent = [place for place in places if not place.is_file()]
    for place in places:
        say(f"{place}: {'missing' if place in absent else 'ok'}")
    if absent:
        raise WeightsError(f"{absent[0]} is missing; install the package again")
    say(f"{preset.name} is complete.")
    return DONE


def needs() -> list[PresetNeeds]:
    """What each preset takes of a machine, for `streamgen doctor`."""
    folder = models_folder()
    found = []
    for preset in pipelines.PRESETS.values():
        memory, files = memory_of(preset.settings, preset.defaults), files_of(preset)
        missing = [file for file in files if file.state(folder) != "here"]
        found.append(
            PresetNeeds(
                name=preset.name,
                weights_bytes=memory.weights,
                session_bytes=memory.session,
                prompt_bytes=memory.prompt,
                missing_bytes=_size(missing),
                needs_gpu=bool(files),
            )
        )
    return found


def _preset(name: str) -> Preset:
    if name not in pipelines.PRESETS:
        raise PresetError(f"no preset {name!r}; there are {', '.join(pipelines.PRESETS)}")
    return pipelines.PRESETS[name]


def _size(files: Iterable[WeightFile]) -> int:
    return sum(file.bytes for file in files)


def _weights(preset: Preset) -> str:
    files, folder = files_of(preset), models_folder()
    missing = [file for file in files if file.state(folder) != "here"]
    if not files:
        return ""  # its description says that it ships with them
    if not missing:
        return f" Weights: {gigabytes(_size(files))}, here."
    return f" Weights: {gigabytes(_size(missing))} to download with: streamgen models pull {preset.name}."


def _memory(preset: Preset) -> str:
    memory = memory_of(preset.settings, preset.defaults)
    if not memory.weights:
        return "Takes no device memory."
    prompt = f", and {gigabytes(memory.prompt)} while it reads a prompt" if memory.prompt else ""
    return f"Takes {gigabytes(memory.weights)} of device memory and {gigabytes(memory.session)} a session{prompt}."


def _check_disk(folder: Path, wanted: Sequence[WeightFile]) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < _size(wanted) + _SPARE:
        raise WeightsError(
            f"{gigabytes(_size(wanted))} do not fit: {existing} has {gigabytes(free)} free;"
            " make room, or set STREAMGEN_MODELS to a folder on a larger disk"
        )


def _fetch_all(name: str, wanted: Sequence[WeightFile], folder: Path) -> None:
    hub = importlib.import_module("pipelines.hub")  # takes a second to load, which only a download is worth
    for file in wanted:
        try:
            hub.fetch(file, folder)
        except DownloadError as error:
            if not error.offline:
                raise
            raise DownloadError(
                f"{error.message}. Without a network, copy the files listed above from another machine to the places"
                f" listed beside them (in {folder}; STREAMGEN_MODELS names another), then run:"
                f" streamgen models verify {name}",
                offline=True,
            ) from error


def _damage(files: Sequence[WeightFile], folder: Path) -> Iterable[tuple[WeightFile, str]]:
    """The files that are not what they should be, with what is wrong."""
    checked = [file for file in files if file.sha256 and file.state(folder) == "here"]
    with tqdm(
        total=_size(checked), unit="B", unit_scale=True, desc="checking", file=sys.stderr, disable=None, leave=False
    ) as bar:
        for file in files:
            place, state = file.place(folder), file.state(folder)
            if state == "missing":
                yield file, "missing"
            elif state == "incomplete":
                yield file, f"damaged: {place.stat().st_size} bytes instead of {file.bytes}"
            elif file.sha256 and sha256_of(place, bar.update) != file.sha256:
                yield file, "damaged: its checksum is not the published one; delete it"


def _report(damage: Sequence[tuple[WeightFile, str]], good: str, say: Print, command: str = "") -> int:
    if not damage:
        say(good)
        return DONE
    first, problem = damage[0]
    mend = f"; then run: {command}" if command else " and pull again"
    raise WeightsError(f"{len(damage)} of the files cannot be used, the first being {first.path} ({problem}){mend}")
