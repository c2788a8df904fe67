"""Encode a data set once, without training: a look at its columns, and a warm cache.

    python -m pipelines.prepare data=parquet data.path=clicks.parquet data.label=clicked
    python -m pipelines.prepare data=criteo data.source=<folder> data.min_count=10
    python -m pipelines.prepare data=criteo data.source=<folder> data.store=s3://bucket/prepared
    python -m pipelines.prepare data=criteo data.source=<folder> data.engine=ray data.store=<folder>

`data.engine=ray` shares the work out over the machines of a Ray cluster (`data.ray_address`), which
all see the folder; the bytes are the same. `data.store` is where other machines find the result.

Prints what every column was taken for, and where the schema lies that you may edit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recsys import config


def prepare(cfg: DictConfig) -> dict[str, Any]:
    """Fit and encode; training with the same `data.*` then opens the result at once."""
    from recsys.data.prepare import prepare as encode
    from recsys.tracking.console import Console

    raw, options = config.build_dataset(cfg.data)
    with Console(cfg.console) as console:
        console.banner(f"preparing {raw.name}")
        prepared = encode(raw, options, Path(cfg.output_dir), console.preparing)
        console.prepared(prepared)
        console.note(f"prepared in {prepared.folder}")
        if options.store is not None:
            console.note(f"for all machines: {options.store}/{prepared.name}-{prepared.digest}")
        console.note(f"schema, to edit and pass as data.schema: {prepared.folder}/schema.yaml")
    return {"folder": str(prepared.folder), "digest": prepared.digest}


if __name__ == "__main__":
    config.main(prepare, "prepare")
