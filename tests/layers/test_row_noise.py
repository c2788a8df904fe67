"""Noise by place: uniform, of one length, different by seed, layer and side.

That the kernel adds the same is tested with the propagation.
"""

from __future__ import annotations

import torch

from recsys.layers.row_noise import Noise, perturbed_rows


def test_noise_is_uniform_and_differs_by_seed_layer_and_side() -> None:
    x, noise = torch.ones(2000, 16), Noise(1.0, 3)
    draws = perturbed_rows(x, 1.0, noise.key(1, 0)) - 1.0
    scaled = draws / draws.amax(1, keepdim=True)
    # The others of a row, given its largest, are uniform up to it.
    others = scaled[scaled < 1.0]
    assert abs(others.mean() - 0.5) < 0.01
    assert abs(others.var() - 1 / 12) < 0.003
    assert abs(torch.corrcoef(draws.T)[0, 1]) < 0.08
    keys = [noise.key(1, 0), noise.key(2, 0), noise.key(1, 1), Noise(1.0, 4).key(1, 0)]
    assert len({tuple(key) for key in keys}) == len(keys)


def test_each_row_moves_by_eps_away_from_zero() -> None:
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    x[3] = 0.0
    step = perturbed_rows(x, 0.25, Noise(0.25, 1).key(1, 0)) - x
    expected = torch.full((50,), 0.25)
    expected[3] = 0.0  # sign(0) = 0
    torch.testing.assert_close(step.norm(dim=1), expected, atol=1e-6, rtol=1e-5)
    assert (step * x >= 0).all()


def test_a_seed_is_drawn_from_torchs_generator() -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(Noise.draw(0.1))
    assert found[0] == found[1] != found[2]
