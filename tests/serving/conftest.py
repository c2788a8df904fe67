"""Small models to serve: of clicks with every kind of column, of users and items."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient

from recsys.data.encode import FeaturePipeline
from recsys.data.interactions import Interactions
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.storage import DenseStorage
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec, SavedModel
from recsys.models.saved_cf import SavedCF, make_cf
from recsys.retrieval.candidates import Candidates
from recsys.serving.app import create_app
from recsys.serving.holder import Holder
from recsys.serving.limits import Limits
from recsys.serving.listing import Listing
from recsys.serving.scoring import Scoring
from recsys.serving.served import Served

MAX_ROWS = 40


def frame(rows: int = 400, seed: int = 0) -> pl.DataFrame:
    """Raw rows of every kind of column, with nulls, long ids and lists that are empty."""
    rng = np.random.default_rng(seed)

    def some(values: list[object]) -> list[object]:
        return [None if rng.random() < 0.1 else value for value in values]

    def lists(length: int) -> list[object]:
        return [
            [f"i{n}" for n in rng.integers(0, 30, rng.integers(0, length))] for _ in range(rows)
        ]

    return pl.DataFrame(
        {
            "user": some([int(n) for n in rng.integers(2**62, 2**62 + 40, rows)]),
            "item": some([f"i{n}" for n in rng.integers(0, 30, rows)]),
            "city": some([["Köln", "Łódź", "", "\U0001f600", "a\x00b"][n]
                          for n in rng.integers(0, 5, rows)]),
            "version": some([float(n) / 4 for n in rng.integers(0, 9, rows)]),
            "mobile": some([bool(n) for n in rng.integers(0, 2, rows)]),
            "agent": some([f"agent {n}" for n in rng.integers(0, 500, rows)]),
            "price": some(rng.lognormal(size=rows).tolist()),
            "age": some([int(n) for n in rng.integers(0, 90, rows)]),
            "stay": some(rng.exponential(size=rows).tolist()),
            "share": some(rng.random(rows).tolist()),
            "tags": some(lists(5)),
            "seen": some(lists(9)),
            "click": rng.integers(0, 2, rows),
            "buy": rng.integers(0, 2, rows),
        },
        schema_overrides={"tags": pl.List(pl.String), "seen": pl.List(pl.String)},
    )  # fmt: skip


FIELDS = (
    Field(name="user", kind="categorical", encoding="vocabulary", dtype="int"),
    Field(name="item", kind="categorical", encoding="vocabulary"),
    Field(name="city", kind="categorical", encoding="vocabulary"),
    Field(name="version", kind="categorical", encoding="vocabulary", dtype="float"),
    Field(name="mobile", kind="categorical", encoding="vocabulary", dtype="bool"),
    Field(name="agent", kind="categorical", encoding="hash", hash_size=50),
    Field(name="price", kind="numeric", encoding="log", dtype="float"),
    Field(name="age", kind="numeric", encoding="quantile", num_buckets=8, dtype="int"),
    Field(name="stay", kind="numeric", encoding="standard", dtype="float"),
    Field(name="share", kind="numeric", encoding="minmax", dtype="float"),
    Field(name="tags", kind="multivalued", encoding="vocabulary", max_length=3),
    Field(name="seen", kind="history", encoding="vocabulary", shares="item", max_length=6),
)


def make_saved(
    labels: tuple[str, ...] = ("click",),
    fields: tuple[Field, ...] = FIELDS,
    seed: int = 0,
    run_id: str = "r1",
) -> SavedModel:
    """A model with random weights whose pipeline is fitted on `frame`."""
    family, target = "ctr", "recsys.models.ctr.dcnv2.DCNv2"
    arguments: dict[str, object] = {"hidden_dims": [16]}
    if len(labels) > 1:
        family, target = "mtl", "recsys.models.mtl.sharedbottom.SharedBottom"
        arguments = {}
    pipeline = FeaturePipeline.fit(Source.from_frame(frame()), Schema(fields=fields, labels=labels))
    spec = ModelSpec(family, target, arguments)
    torch.manual_seed(seed)
    network = Recommender.build(
        pipeline.schema, EmbeddingOptions(dim=4, init_std=0.5), spec.make, DenseStorage
    )
    return SavedModel(network, pipeline, spec, {"run_id": run_id})


def make_cf_saved() -> SavedCF:
    """Random vectors of 20 users and 30 items with titles."""
    rng = np.random.default_rng(0)
    pairs = pl.DataFrame(
        {"user": [f"u{n % 20}" for n in range(160)], "item": rng.integers(0, 30, 160)}
    )
    titles = pl.DataFrame({"item": range(30), "title": [f"film {n}" for n in range(30)]})
    data = Interactions.of("small", pairs, titles=titles)
    torch.manual_seed(0)
    spec = ModelSpec("cf", "recsys.models.cf.bprmf.BPRMF", {"embed_dim": 8, "init_std": 1.0})
    return SavedCF(make_cf(spec, data.train), data, spec, {"run_id": "c1"})


class Fixed:
    """An origin whose model a test replaces by hand."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.number = "1"

    def version(self) -> str:
        return self.number

    def load(self) -> Served:
        if isinstance(self.served, Exception):
            raise self.served
        return self.served


@pytest.fixture(scope="session")
def saved() -> SavedModel:
    return make_saved()


@pytest.fixture(scope="session")
def scoring(saved: SavedModel) -> Scoring:
    return Scoring(saved, "r1", MAX_ROWS)


@pytest.fixture(scope="session")
def saved_cf() -> SavedCF:
    return make_cf_saved()


@pytest.fixture(scope="session")
def listing(saved_cf: SavedCF) -> Listing:
    return Listing(Candidates(saved_cf), "c1", MAX_ROWS, 20)


@pytest.fixture
def origin(scoring: Scoring) -> Fixed:
    return Fixed(scoring)


@pytest.fixture
def client(origin: Fixed) -> Iterator[TestClient]:
    """The application of the click model, in this process."""
    holder = Holder(origin)
    limits = Limits(max_rows=MAX_ROWS, max_body_kib=64, timeout=5.0)
    with TestClient(create_app(holder, limits)) as one:
        one.app.state.holder = holder  # type: ignore[attr-defined]
        yield one


@pytest.fixture(scope="session")
def run_folder(saved: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The click model as the output folder of a run."""
    folder = tmp_path_factory.mktemp("run")
    saved.save(folder / "model")
    return folder
