import torch

from pipelines.causal_wan.rope import RoPE, Rotation

CPU = torch.device("cpu")
PAIRS = (12, 10, 10)


def test_turning_back_gives_the_same() -> None:
    rotation = Rotation(RoPE(PAIRS, CPU).angles([5], 3, 4), torch.float32)
    x = torch.randn(1, 12, 2, 64)
    torch.testing.assert_close(rotation.back(rotation(x)), x)


def test_it_is_the_complex_rotation_of_each_pair() -> None:
    """Against the definition: pair p of a token at (t, y, x) turns by position * 10000^(-i / pairs of its axis)."""
    angles = RoPE(PAIRS, CPU).angles([7], 3, 4)
    x = torch.randn(1, 12, 1, 64)
    turned = Rotation(angles, torch.float32)(x)
    token, position = 6, (7, 1, 2)
    want = []
    for axis, count in enumerate(PAIRS):
        want += [position[axis] * 10000.0 ** (-i / count) for i in range(count)]
    pairs = torch.complex(x[0, token, 0, :32], x[0, token, 0, 32:]) * torch.polar(torch.ones(32), torch.tensor(want))
    torch.testing.assert_close(torch.complex(turned[0, token, 0, :32], turned[0, token, 0, 32:]), pairs)


def test_time_alone_leaves_rows_and_columns() -> None:
    angles = RoPE(PAIRS, CPU).time_angles([3, 4])
    assert angles.shape == (2, 1, 12)
    torch.testing.assert_close(angles[1, 0, 0], torch.tensor(4.0))


def test_positions_of_a_day_at_sixty_frames_are_still_exact() -> None:
    """Neighbours at frame 10 million differ by the same turn as at the start."""
    rope = RoPE(PAIRS, CPU)
    for start in (0, 10_000_000):
        a, b = rope.time_angles([start, start + 1])[:, 0]
        turn = torch.remainder(b - a, 2 * torch.pi)
        torch.testing.assert_close(turn, rope.time_angles([1])[0, 0], atol=2e-6, rtol=0)
