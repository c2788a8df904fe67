"""An index as a folder that is whole or absent, and that is loaded only as it was written.

    index/
        band-000.faiss, ...   the Faiss index of each band
        ids.parquet           id, band, and whether it was removed, by position
        index.json            kind, similarity, run, what was measured, SHA-256 of the files

Letters   N vectors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.atomic import atomic_folder
from recsys.errors import CheckpointError
from recsys.retrieval import faiss_index
from recsys.retrieval.band_index import Band
from recsys.retrieval.checksums import (
    check_files,
    check_replaceable,
    checksum,
    read_json_card,
)
from recsys.retrieval.vector_index import VectorIndex

FORMAT = {"format": "recsys-index", "version": 1}
CARD = "index.json"
IDS = "ids.parquet"
_REMEDY = "Build it again: python -m pipelines.build_index embeddings=<export>."


@dataclass(frozen=True, eq=False)
class SavedIndex:
    """An index with what is known of it."""

    index: VectorIndex
    card: dict[str, Any]

    def require_run(self, facts: Mapping[str, Any]) -> None:
        """Raise CheckpointError when the index is not of this run and its data: what it finds
        would belong to other vectors.

        Args:
            facts: Of a saved model: `run_id` and `data_digest`.
        """
        own = self.card["facts"]
        for key, name in (("run_id", "run"), ("data_digest", "data")):
            if own.get(key) != facts.get(key):
                raise CheckpointError(
                    f"the index is stale: it is of the {name} {own.get(key)}, the model of the "
                    f"{name} {facts.get(key)}. Export and build again: python -m "
                    f"pipelines.export_embeddings run={facts.get('run_id')}, then "
                    "pipelines.build_index."
                )


def save_index(index: VectorIndex, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the folder, whole or not at all.

    Args:
        index: What to write.
        folder: Replaced if it holds an index.
        about: What goes to the card beside what the index knows itself: `facts`, `measured` ...

    Returns:
        The card.

    Raises:
        ConfigError: the folder holds other files.
    """
    check_replaceable(folder, (CARD,))
    with atomic_folder(folder) as partial:
        which = np.empty(len(index.ids), np.int16)
        names = []
        for number, band in enumerate(index.bands):
            which[band.positions] = number
            names.append(f"band-{number:03d}.faiss")
            faiss_index.write(band.index, partial / names[-1])
        ids = {"id": index.ids, "band": pa.array(which), "removed": pa.array(index.removed)}
        pq.write_table(pa.table(ids), partial / IDS)
        card = {
            **FORMAT,
            "kind": index.kind,
            "similarity": index.similarity,
            "dim": index.dim,
            "num_items": len(index),
            "effort": index.effort,
            "refine": index.refine,
            "bands": [
                {"rows": len(band.positions), "width": band.index.d, "longest": band.longest}
                for band in index.bands
            ],
            **about,
            "files": {name: checksum(partial / name) for name in (*names, IDS)},
        }
        (partial / CARD).write_text(json.dumps(card, indent=1))
    return card


def load_index(folder: Path) -> SavedIndex:
    """Read what `save_index` wrote.

    Raises:
        CheckpointError: a file is absent, truncated, changed or not what the card says, or
            everything was removed from the index.
    """
    card = read_json_card(folder / CARD, FORMAT, _REMEDY)
    check_files(folder, card["files"], _REMEDY)
    names = [name for name in card["files"] if name != IDS]
    table = pq.read_table(folder / IDS)
    which = table["band"].to_numpy()
    bands = []
    for number, (name, told) in enumerate(zip(names, card["bands"], strict=True)):
        made = faiss_index.read(folder / name, _REMEDY)
        positions = np.flatnonzero(which == number)
        if (made.ntotal, made.d) != (len(positions), told["width"]):
            raise CheckpointError(
                f"{folder / name} holds {made.ntotal:,} vectors of width {made.d}, but its card "
                f"and {IDS} say {len(positions):,} of width {told['width']}. {_REMEDY}"
            )
        bands.append(Band(made, float(told["longest"]), positions))
    removed = table["removed"].combine_chunks().to_numpy(zero_copy_only=False)
    ids = table["id"].combine_chunks()
    if removed.all():
        raise CheckpointError(f"{folder} holds no vector that was not removed. {_REMEDY}")
    index = VectorIndex(
        kind=card["kind"],
        similarity=card["similarity"],
        dim=card["dim"],
        ids=ids,
        bands=bands,
        effort=card["effort"],
        refine=card["refine"],
        removed=removed,
    )
    return SavedIndex(index, card)
