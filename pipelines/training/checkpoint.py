"""Training that can stop and go on: a number of steps, an exponential mean of the weights, a checkpoint file."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm


@dataclass
class Trainer:
    """Steps of AdamW on `model` with warm-up and cosine decay over `steps`; the weights' mean is what is kept.

    Saves to `path` every `save_every` seconds and at the end; starts from there where the file exists.
    """

    model: nn.Module
    path: Path
    steps: int
    rate: float
    label: str
    weight_decay: float = 0.01
    mean_decay: float = 0.995
    save_every: float = 120.0
    step: int = 0
    _shown: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), self.rate, betas=(0.9, 0.98), weight_decay=self.weight_decay
        )
        self.mean = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.mean, self.step = saved["mean"], saved["step"]

    def run(self) -> Iterator[int]:
        """Yields the number of each step to be done; the caller computes the loss and calls `descend`."""
        saved = time.monotonic()
        with tqdm(total=self.steps, initial=self.step, desc=self.label, mininterval=5.0) as bar:
            while self.step < self.steps:
                yield self.step
                self.step += 1
                bar.update()
                bar.set_postfix({k: f"{v:.4f}" for k, v in self._shown.items()}, refresh=False)
                if time.monotonic() - saved > self.save_every:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def descend(self, loss: torch.Tensor, **shown: torch.Tensor) -> None:
        """One step down the gradient of `loss`; `shown` are running means for the progress bar."""
        progress = self.step / self.steps
        rate = self.rate * min(1.0, (self.step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.mean_decay, (self.step + 1) / (self.step + 10))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.mean[name].lerp_(value.detach(), 1 - decay)
        for name, value in {"loss": loss, **shown}.items():
            new = float(value.detach())
            self._shown[name] = 0.98 * self._shown.get(name, new) + 0.02 * new

    def save(self) -> None:
        """Writes the checkpoint so that a crash leaves the old one whole."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "mean": self.mean,
                 "step": self.step}  # fmt: skip
        new = self.path.with_suffix(".new")
        torch.save(state, new)
        new.replace(self.path)

    def finish(self) -> None:
        """Puts the mean of the weights into the model."""
        self.model.load_state_dict(self.mean)
        self.model.eval()
