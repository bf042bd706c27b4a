"""Prompts for the styles: words that mean each, and sentences around them, put together at random."""

from __future__ import annotations

import numpy as np

from pipelines.training.styles import STYLES

MEANINGS: dict[str, tuple[str, ...]] = {
    "photo": (
        "photo", "photograph", "realistic", "realistic photo", "natural", "no style", "unchanged", "original",
        "as it is", "camera picture", "photorealistic", "plain video", "normal", "raw footage", "reality",
        "real life", "hd photo",
    ),
    "pencil": (
        "pencil", "pencil sketch", "pencil drawing", "graphite", "sketch", "charcoal", "charcoal drawing",
        "hand drawn sketch", "drawn with a pencil", "graphite on paper", "crayon sketch", "grey drawing",
        "shaded sketch", "sketchbook",
    ),
    "ink": (
        "ink", "black ink", "ink drawing", "pen and ink", "brush and ink", "manga", "woodcut",
        "black and white comic", "linocut", "stencil", "sumi-e", "calligraphy", "noir comic",
        "high contrast black and white", "graphic novel",
    ),
    "watercolour": (
        "watercolour", "watercolor", "watercolour painting", "aquarelle", "soft wash", "watercolour on paper",
        "pale washes", "gouache", "light watercolor", "water colours", "delicate painting", "pastel wash", "pastel",
    ),
    "oil": (
        "oil", "oil painting", "oil on canvas", "van gogh", "impressionist", "impressionism", "monet", "thick paint",
        "impasto", "brush strokes", "classical painting", "renaissance painting", "painted", "acrylic painting",
        "rembrandt",
    ),
    "cartoon": (
        "cartoon", "comic", "anime", "cel shaded", "cel shading", "animation", "disney", "pixar", "comic book",
        "toon", "flat colours", "bold outlines", "studio ghibli", "pop art", "drawn animation", "superhero comic",
    ),
    "pixel": (
        "pixel art", "pixel", "8-bit", "8 bit game", "16-bit", "retro game", "pixelated", "minecraft", "blocks",
        "mosaic", "lego", "low resolution", "arcade game", "nintendo", "game boy", "sprites", "video game",
    ),
    "neon": (
        "neon", "neon lights", "neon night", "cyberpunk", "glowing lines", "synthwave", "tron", "glowing",
        "night club", "blade runner", "electric glow", "vaporwave", "fluorescent", "laser light", "futuristic city",
        "glow in the dark",
    ),
    "blueprint": (
        "blueprint", "technical drawing", "technical blueprint", "architect plan", "engineering drawing",
        "cyanotype", "construction plan", "white lines on blue", "schematic", "cad drawing", "wireframe",
        "draft plan", "diagram",
    ),
    "thermal": (
        "thermal", "thermal camera", "heat map", "infrared", "heat vision", "thermal imaging", "predator vision",
        "false colour", "heat camera", "temperature map", "infrared camera", "thermography", "flir",
        "heat signature",
    ),
    "vintage": (
        "vintage", "sepia", "vintage photo", "old photograph", "sepia tone", "old film", "1920s", "antique",
        "victorian", "nostalgic", "old movie", "faded print", "daguerreotype", "historic photo",
        "grandfather's album", "silent film",
    ),
}  # fmt: skip

_FRAMES = (
    "{}", "{}", "{}", "a {}", "{} style", "in the style of {}", "as {}", "make it {}", "turn me into {}",
    "{} portrait", "{} of a person", "a {} of a cat", "{} of a city street", "beautiful {}",
    "a detailed {}, masterpiece", "{}, high quality", "everything looks like {}", "me as {}", "{} look",
    "the scene as {}", "{} filter", "{} effect", "a man in {}", "a woman in {} style", "landscape, {}", "please {}",
    "I want {}", "{}, best quality, highly detailed", "live {}", "dog, {}", "my room in {}",
    "a walk in the park, {}", "{} with trees and grass", "a very nice {}", "{} video",
)  # fmt: skip


def random_prompt(rng: np.random.Generator, style: str) -> str:
    """A prompt that asks for `style`."""
    if style == "photo" and rng.random() < 0.15:
        return ""
    meanings = MEANINGS[style]
    prompt = _FRAMES[int(rng.integers(len(_FRAMES)))].format(meanings[int(rng.integers(len(meanings)))])
    match int(rng.integers(8)):
        case 0:
            return prompt.upper()
        case 1:
            return _with_typo(rng, prompt)
        case _:
            return prompt


def _with_typo(rng: np.random.Generator, prompt: str) -> str:
    at = int(rng.integers(len(prompt)))
    return prompt[:at] + prompt[at + 1 :]


if set(MEANINGS) != set(STYLES):
    raise ValueError("every style needs prompts")
