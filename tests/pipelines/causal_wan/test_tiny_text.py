import torch

from pipelines.causal_wan.tiny_text import TextGeometry, TinyTextEncoder, pieces, words

GEOMETRY = TextGeometry(buckets=64, dim=16, layers=1, heads=2, length=6)


def encoder() -> TinyTextEncoder:
    torch.manual_seed(0)
    return TinyTextEncoder(GEOMETRY, 3).eval().requires_grad_(False)


def test_words_ignore_case_and_punctuation() -> None:
    assert words("A Van-Gogh painting, 8-bit!") == ["a", "van", "gogh", "painting", "8", "bit"]
    assert words("emoji \N{CAT FACE} and Ünïcode") == ["emoji", "and", "ünïcode"]


def test_a_words_pieces_are_itself_and_its_trigrams() -> None:
    assert len(pieces("oil", 1 << 30)) == 1 + 3
    assert set(pieces("sketch", 1 << 30)[1:-1]) <= set(pieces("sketchy", 1 << 30))


def test_any_prompt_gives_the_same_shape_with_zeros_behind_its_end() -> None:
    embedding, logits = encoder()(["", "oil", "one two three four five six seven eight", "x" * 2000])
    assert embedding.shape == (4, 6, 16)
    assert logits.shape == (4, 3)
    assert torch.isfinite(embedding).all()
    assert embedding[1, 1:].abs().max() == 0
    assert embedding[2, 5].abs().max() > 0


def test_a_prompts_embedding_does_not_depend_on_its_neighbours() -> None:
    model = encoder()
    alone, _ = model(["oil painting"])
    beside, _ = model(["a much longer prompt than that", "oil painting"])
    torch.testing.assert_close(beside[1:], alone)
