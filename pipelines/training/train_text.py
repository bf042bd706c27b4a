"""Training loop of the tiny text encoder: which style does a prompt ask for?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from pipelines.causal_wan.tiny_text import TextGeometry, TinyTextEncoder
from pipelines.training.checkpoint import Trainer
from pipelines.training.prompts import random_prompt
from pipelines.training.styles import STYLES


def train_text(geometry: TextGeometry, folder: Path, steps: int, batch: int, seed: int) -> TinyTextEncoder:
    """A trained text encoder, on the CPU (it is small)."""
    torch.manual_seed(seed)
    model = TinyTextEncoder(geometry, len(STYLES))
    trainer = Trainer(model, folder / "text.pt", steps, rate=1e-3, label="text", mean_decay=0.99)
    names = list(STYLES)
    for step in trainer.run():
        rng = np.random.default_rng((seed, 2, step))
        labels = rng.integers(0, len(names), batch)
        _, logits = model([random_prompt(rng, names[label]) for label in labels])
        target = torch.from_numpy(labels)
        right = (logits.argmax(dim=1) == target).float().mean()
        trainer.descend(F.cross_entropy(logits, target, label_smoothing=0.05), right=right)
    trainer.finish()
    return model
