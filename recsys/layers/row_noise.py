"""Noise that a row's place decides: SimGCL's, the same on any device and number of threads.

Source   Yu et al., arXiv:2112.08679 (SimGCL), Eq. 7, and the authors' code: uniform, unit length,
         the sign of what it is added to.

Letters   R rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Noise:
    """eps * sign(x) * u / |u| added to every layer, u uniform in [0, 1) per row and column.

    A function of the seed, the layer and the place in the matrix: the same on any device, with any
    number of threads, and by the kernel or torch.
    """

    eps: float
    seed: int

    @staticmethod
    def draw(eps: float) -> Noise:
        """Noise whose seed comes from torch's generator."""
        return Noise(eps, int(torch.randint(2**62, ())))

    def key(self, layer: int, side: int) -> np.ndarray:
        """Two numbers for one layer of the users (0) or the items (1), [2] uint32."""
        return np.random.SeedSequence((self.seed, layer, side)).generate_state(2)


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of MurmurHash3 on numbers below 2^32 kept as int64."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)


def perturbed_rows(x: Tensor, eps: float, key: np.ndarray) -> Tensor:
    """x [R, D] with the noise of a key added: the numbers of the kernel in `propagation.cpp`."""
    rows = torch.arange(x.shape[0], device=x.device)
    columns = torch.arange(x.shape[1], device=x.device)
    start = _mixed(_mixed(rows ^ int(key[0])) ^ int(key[1]))
    mixed = _mixed((start.unsqueeze(1) + columns * 0x9E3779B9) & _MASK)
    draws = (mixed >> 8).to(x.dtype) * 2.0**-24
    return x + eps * x.sign() * nn.functional.normalize(draws, dim=1)
