"""Where the weights of a run begin: what tells two beginnings apart, and another run's weights.

Runs whose weights begin alike, with the same codes for the same values, may be averaged (see
`recsys.models.soup`); others may not, however alike their configurations look.
"""

from __future__ import annotations

import hashlib

import torch

from recsys.data.encode import FeaturePipeline
from recsys.embedding.sharded_storage import ShardedStorage
from recsys.errors import ConfigError
from recsys.models.recommender import Recommender
from recsys.models.saved import SavedModel, weights_of


def initial_digest(recommender: Recommender) -> str | None:
    """Of the names, shapes and bytes of all weights, before the first step.

    Returns:
        None where tables are sharded: no process has them whole.
    """
    if isinstance(recommender.lookup.storage, ShardedStorage):
        return None
    found = hashlib.sha256()
    for name, tensor in sorted(weights_of(recommender).items()):
        plain = tensor.contiguous()
        found.update(f"{name} {plain.dtype} {list(plain.shape)} ".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


@torch.no_grad()
def start_from(
    recommender: Recommender, saved: SavedModel, pipeline: FeaturePipeline, run: str
) -> None:
    """Give a new model the weights of a finished run, batch norm's statistics included.

    Args:
        recommender: Untrained, with tables whole.
        saved: The finished run's model.
        pipeline: Of the data that will be trained on.
        run: What a person calls the finished run.

    Raises:
        ConfigError: the run is of another model, or its codes mean other values.
    """
    where = f"init_from={run}"
    if isinstance(recommender.lookup.storage, ShardedStorage):
        raise ConfigError(f"{where} fills whole tables. Use embedding.sharding=none.")
    if saved.spec.boosted:
        raise ConfigError(f"{where} is made of trees; it has no weights to begin with.")
    difference = saved.pipeline.schema.diff(pipeline.schema)
    if difference:
        raise ConfigError(f"{where} read other columns (- then, + now):\n{difference}")
    if saved.pipeline.digest() != pipeline.digest():
        raise ConfigError(
            f"{where} gives values other codes than this data does (its vocabularies or scales "
            "were fitted on other rows), so its vectors would go to the wrong values. Train on the "
            "data it was trained on."
        )
    given, mine = weights_of(saved.recommender), recommender.tensors()
    wanted = weights_of(recommender)
    names = sorted(given.keys() ^ wanted.keys())
    shapes = [
        f"{name} is {list(given[name].shape)} there and {list(wanted[name].shape)} here"
        for name in sorted(given.keys() & wanted.keys())
        if given[name].shape != wanted[name].shape
    ]
    if names or shapes:
        raise ConfigError(
            f"{where} is another model: {'; '.join([*names, *shapes][:3])}. Use the ctr, mtl and "
            f"embedding options of that run ({saved.spec.class_name})."
        )
    recommender.load_tensors(mine | given)
