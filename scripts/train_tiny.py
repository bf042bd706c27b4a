#!/usr/bin/env python
"""Trains the tiny preset and writes its weights: clips, autoencoder, text encoder, DiT, one after the other.

    python scripts/train_tiny.py        everything, about 80 minutes on 2 cores

Seeded; stops and goes on at its checkpoints (Ctrl-C, then the same command). Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from pipelines.causal_wan.autoencoder import AutoencoderGeometry
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.tiny_text import TextGeometry
from pipelines.training.clips import ClipSet, encode_clips
from pipelines.training.styles import STYLES
from pipelines.training.train_autoencoder import refine_decoder, train_autoencoder
from pipelines.training.train_dit import LatentClips, Stage, train_dit
from pipelines.training.train_text import train_text

PRESETS = Path(__file__).resolve().parent.parent / "pipelines" / "presets"


def main() -> int:
    args = _arguments()
    settings = yaml.safe_load((PRESETS / "tiny.yaml").read_text(encoding="utf-8"))["settings"]
    args.work.mkdir(parents=True, exist_ok=True)
    small = ClipSet(args.work, args.clips, 128, 128, args.seed)
    large = ClipSet(args.work, max(args.clips // 8, 8), 320, 192, args.seed + 1)
    small.make()
    large.make()

    autoencoder = train_autoencoder(
        AutoencoderGeometry(**settings["autoencoder"]), small, args.work, args.autoencoder_steps,
        args.autoencoder_batch, 96, args.device, args.seed,
    )  # fmt: skip
    _write(autoencoder, args.out / "autoencoder.safetensors", torch.bfloat16)
    text = train_text(TextGeometry(**settings["text"]), args.work, args.text_steps, 64, args.seed)
    _write(text, args.out / "text.safetensors", torch.bfloat16)

    near, far = (LatentClips(_latents(autoencoder, clips, args), text, args.seed) for clips in (small, large))
    part = args.dit_steps // 11
    stages = [
        Stage(near, args.dit_batch, 2, args.dit_steps - 4 * part),
        Stage(near, args.dit_batch // 2, 4, 2 * part),
        Stage(far, max(args.dit_batch // 8, 1), 4, 2 * part),
    ]
    dit = train_dit(DiTGeometry.from_settings(settings["dit"]), stages, autoencoder.deviation, args.work, args.device,
                    args.seed)  # fmt: skip
    _write(dit, args.out / "dit.safetensors", torch.bfloat16)

    refine_decoder(
        autoencoder, small, args.work, args.decoder_steps, args.autoencoder_batch, 96, args.device, args.seed
    )  # fmt: skip
    _write(autoencoder, args.out / "autoencoder.safetensors", torch.bfloat16)
    return 0


def _latents(autoencoder: torch.nn.Module, clips: ClipSet, args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Latents of all clips, kept in the work folder."""
    path = clips.path / "latents.pt"
    if not path.exists():
        torch.save(encode_clips(autoencoder, clips, args.device), path)  # type: ignore[arg-type]
    loaded: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return loaded


def _write(model: torch.nn.Module, path: Path, dtype: torch.dtype) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().to(dtype).contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, path, metadata={"styles": ",".join(STYLES)})
    sys.stderr.write(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out/train-tiny"), help="clips and checkpoints (about 4 GB)")
    parser.add_argument("--out", type=Path, default=PRESETS / "tiny", help="where the weights go")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=600, help="clips of 13 frames at 128x128")
    parser.add_argument("--autoencoder-steps", type=int, default=2350)
    parser.add_argument("--autoencoder-batch", type=int, default=8)
    parser.add_argument("--decoder-steps", type=int, default=1500, help="of the decoder alone, at the end")
    parser.add_argument("--text-steps", type=int, default=1500)
    parser.add_argument("--dit-steps", type=int, default=2000)
    parser.add_argument("--dit-batch", type=int, default=16)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
