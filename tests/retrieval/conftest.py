"""A small model of users and items, a small click model, and exports of both."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from recsys.data.encode import FeaturePipeline
from recsys.data.interactions import Interactions
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.storage import DenseStorage
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec, SavedModel
from recsys.models.saved_cf import SavedCF, make_cf
from recsys.retrieval.export import export_tables
from recsys.retrieval.exported import ExportedVectors
from recsys.retrieval.vectors import MatrixVectors, vectors_of_cf

FACTS = {"run_id": "r1", "data": "small", "data_digest": "d1", "seed": 0}
NUM_USERS, NUM_ITEMS = 30, 50


@pytest.fixture(scope="session")
def pairs() -> Interactions:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "user": [f"u{n}" for n in (*range(NUM_USERS), *rng.integers(0, NUM_USERS, 250))],
            "item": [*rng.integers(0, NUM_ITEMS, NUM_USERS), *rng.integers(0, NUM_ITEMS, 200),
                     *range(NUM_ITEMS)],
        }
    )  # fmt: skip
    titles = pl.DataFrame({"item": range(NUM_ITEMS), "title": [f"film {n}" for n in range(50)]})
    return Interactions.of("small", frame, titles=titles)


@pytest.fixture(scope="session")
def saved_cf(pairs: Interactions) -> SavedCF:
    torch.manual_seed(0)
    spec = ModelSpec("cf", "recsys.models.cf.bprmf.BPRMF", {"embed_dim": 8, "init_std": 1.0})
    return SavedCF(make_cf(spec, pairs.train), pairs, spec, FACTS)


@pytest.fixture(scope="session")
def popularity(pairs: Interactions) -> SavedCF:
    """A model without vectors."""
    spec = ModelSpec("cf", "recsys.models.cf.popularity.Popularity", {})
    model = make_cf(spec, pairs.train)
    model.fit(pairs.train)  # type: ignore[operator]
    return SavedCF(model, pairs, spec, FACTS)


def click_frame(rows: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "user": [f"u{n}" for n in rng.integers(0, NUM_USERS, rows)],
            "item": rng.integers(0, NUM_ITEMS, rows),
            "city": [f"c{i}" for i in rng.integers(0, 5, rows)],
            "price": rng.normal(size=rows),
            "click": rng.integers(0, 2, rows),
        }
    )


CLICK_FIELDS = (
    Field(name="user", kind="categorical", encoding="vocabulary"),
    Field(name="item", kind="categorical", encoding="vocabulary", dtype="int"),
    Field(name="city", kind="categorical", encoding="vocabulary"),
    Field(name="price", kind="numeric", encoding="standard", dtype="float"),
)


def click_model(
    options: EmbeddingOptions, target: str = "recsys.models.ctr.dcnv2.DCNv2"
) -> SavedModel:
    pipeline = FeaturePipeline.fit(
        Source.from_frame(click_frame()), Schema(fields=CLICK_FIELDS, labels=("click",))
    )
    spec = ModelSpec("ctr", target, {"hidden_dims": [8]} if target.endswith("DCNv2") else {})
    torch.manual_seed(0)
    recommender = Recommender.build(
        pipeline.schema, options, spec.make, DenseStorage, vectors=spec.needs_fields
    )
    return SavedModel(recommender, pipeline, spec, FACTS)


@pytest.fixture(scope="session")
def saved_click() -> SavedModel:
    return click_model(EmbeddingOptions(dim=4, init_std=0.5))


@pytest.fixture(scope="session")
def exported_cf(saved_cf: SavedCF, tmp_path_factory: pytest.TempPathFactory) -> ExportedVectors:
    """Items of the model of users and items, its users beside them."""
    folder = tmp_path_factory.mktemp("export") / "cf"
    export_tables(list(vectors_of_cf(saved_cf).values()), folder, {**FACTS, "model": "bprmf"})
    return ExportedVectors.open(folder)


def clustered(rows: int, dim: int = 16, seed: int = 0, deviation: float = 0.0) -> np.ndarray:
    """Vectors around a centre for every fifty, of log-normal lengths."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(max(rows // 50, 4), dim))
    vectors = centres[rng.integers(0, len(centres), rows)] + 0.5 * rng.normal(size=(rows, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors * np.exp(deviation * rng.normal(size=(rows, 1)))).astype(np.float32)


def export_matrix(
    folder: Path, vectors: np.ndarray, similarity: str, queries: np.ndarray | None = None
) -> ExportedVectors:
    """Vectors under the ids 1000, 1001, ... as an export, with users beside them where given."""
    sides = [("items", vectors)] if queries is None else [("users", queries), ("items", vectors)]
    tables = [
        MatrixVectors(name, similarity, pa.array(np.arange(len(v)) + 1000), v) for name, v in sides
    ]
    export_tables(tables, folder, {**FACTS, "model": "matrix"})
    return ExportedVectors.open(folder)
