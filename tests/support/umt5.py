"""A small UMT5 under the names of Wan's checkpoint, and a tokenizer of its kind."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

VOCABULARY, DIM, INNER, FFN, HEADS, LAYERS, BUCKETS, LENGTH = 40, 16, 24, 20, 4, 2, 32, 12

BLOCK = {
    "norm1.weight": (DIM,), "norm2.weight": (DIM,),
    "attn.q.weight": (INNER, DIM), "attn.k.weight": (INNER, DIM), "attn.v.weight": (INNER, DIM),
    "attn.o.weight": (DIM, INNER), "pos_embedding.embedding.weight": (BUCKETS, HEADS),
    "ffn.gate.0.weight": (FFN, DIM), "ffn.fc1.weight": (FFN, DIM), "ffn.fc2.weight": (DIM, FFN),
}  # fmt: skip


def umt5_state() -> dict[str, Tensor]:
    """Random weights under the names of models_t5_umt5-xxl-enc-bf16.pth."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "token_embedding.weight": (VOCABULARY, DIM),
        "norm.weight": (DIM,),
        **{f"blocks.{i}.{name}": shape for i in range(LAYERS) for name, shape in BLOCK.items()},
    }
    return {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}


def make_tokenizer(parent: Path) -> Path:
    """A folder with a unigram tokenizer of the kind that UMT5 has: it marks words, and ends with </s>."""
    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    words = [("▁oil", -1.0), ("▁ink", -1.0), ("▁pencil", -1.0), ("▁sketch", -1.0)]
    made = Tokenizer(
        models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0), *letters, *words], 2, False)
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder = parent / "umt5-xxl"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder
