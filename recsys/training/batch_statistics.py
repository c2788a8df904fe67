"""Batch norm's running statistics, taken anew with the weights as they are.

Source   Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, arXiv:2105.07576, Sec. 3
         (PreciseBN).

In training, batch norm takes the mean of a hidden unit away, so that nothing holds the weights
that make it: they drift. A running average follows some ten steps behind, and in evaluation the
unit is off by what it drifted since. Where inputs are far from zero and alike in all rows (the
features that FGCNN generates), that is many standard deviations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from recsys.data.batch import Batch
from recsys.models.recommender import Recommender


@torch.no_grad()
def renew_batch_statistics(recommender: Recommender, batches: Iterable[Batch]) -> None:
    """Make every running statistic the mean over some batches; all else stays as it was, the state
    of the random generators too.

    Args:
        recommender: In training mode, so that dropout is what it is in training; left in it.
        batches: On the recommender's device.
    """
    norms = [
        module
        for module in recommender.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    device = recommender.lookup.storage.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for number, batch in enumerate(batches):
            for norm in norms:
                norm.momentum = 1 / (number + 1)  # the mean over all batches so far
            recommender(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@contextlib.contextmanager
def kept_batch_statistics(module: nn.Module) -> Iterator[None]:
    """Within the block, batch norm uses its running statistics and leaves them alone: what a batch
    of one row, the last of an epoch, is normalised by."""
    norms = [
        one
        for one in module.modules()
        if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.training
    ]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
