"""python -m pipelines.build_index: an export in, a measured index and its curve out."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.build_index import build_index
from recsys import config
from recsys.errors import CheckpointError, ConfigError, SchemaError
from recsys.retrieval.index_folder import load_index
from recsys.retrieval.vectors import COSINE, INNER_PRODUCT
from recsys.tracking import run as tracking
from recsys.tracking.tracker import Tracker
from tests.retrieval.conftest import clustered, export_matrix


def build(*keys: str) -> dict[str, Any]:
    return build_index(config.compose("build_index", ["console=plain", "tracking=none", *keys]))


class Recorder(Tracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("recorded")
        self.metrics: dict[str, float] = {}
        self.artifacts: list[str] = []

    def log_metrics(self, metrics: Any, step: int) -> None:
        super().log_metrics(metrics, step)
        self.metrics |= metrics

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        super().log_artifact(path, folder)
        self.artifacts += sorted(file.name for file in path.iterdir())


def test_what_is_built_measured_chosen_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, queries = clustered(2500, deviation=0.6), clustered(300, seed=1)
    export_matrix(tmp_path / "export", vectors, INNER_PRODUCT, queries)
    recorder, opened = Recorder(), {}

    @contextlib.contextmanager
    def open_tracker(kind: str, **keys: Any) -> Iterator[Tracker]:
        opened.update(keys)
        yield recorder

    monkeypatch.setattr(tracking, "open_tracker", open_tracker)
    made = build(
        f"embeddings={tmp_path / 'export'}", "retrieval=hnsw", "retrieval.neighbors=8",
        "retrieval.ef_construction=20", "retrieval.grid=[10,20,80,320]", "retrieval.min_recall=0.9",
        f"output_dir={tmp_path / 'index'}",
    )  # fmt: skip
    card = json.loads((tmp_path / "index" / "index.json").read_text())
    assert made["card"] == card
    points = card["measured"]["points"]
    assert [point["effort"] for point in points] == [10, 20, 80, 320]
    chosen = card["measured"]["chosen"]
    assert chosen == next(point for point in points if point["recall"] >= 0.9)
    assert card["effort"] == chosen["effort"]
    assert card["facts"]["run_id"] == "r1"
    # What the card says is what the index does.
    loaded = load_index(tmp_path / "index").index
    rows = np.sort(np.random.default_rng(0).choice(300, 300, replace=False))
    best = np.argsort(-(queries[rows] @ vectors.T), axis=1)[:, :10]
    found = loaded.search(queries[rows], 10).positions
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, best, strict=True)])
    assert share == pytest.approx(chosen["recall"], abs=1e-3)
    assert opened["experiment"] == "recsys/small"
    assert opened["tags"]["source_run"] == "r1"
    assert recorder.metrics["index/recall_at_10"] == chosen["recall"]
    assert recorder.artifacts == ["recall_latency.csv", "recall_latency.png"]
    curve = pl.read_csv(tmp_path / "index" / "plots" / "recall_latency.csv")
    assert curve["recall_at_10"].to_list() == [point["recall"] for point in points]
    printed = capsys.readouterr().out
    assert "<- chosen" in printed
    assert "next: python -m pipelines.recommend run=r1" in printed


@pytest.mark.parametrize("kind", ["auto", "flat", "ivf", "ivfpq"])
def test_every_kind(kind: str, tmp_path: Path) -> None:
    export_matrix(tmp_path / "export", clustered(600), COSINE)
    card = build(
        f"embeddings={tmp_path / 'export' / 'items'}", f"retrieval={kind}",
        f"output_dir={tmp_path / 'index'}",
    )["card"]  # fmt: skip
    assert card["kind"] == ("flat" if kind == "auto" else kind)
    assert card["measured"]["chosen"]["recall"] >= 0.95
    assert len(load_index(tmp_path / "index").index) == 600


def test_changes_of_an_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_matrix(tmp_path / "export", clustered(100), INNER_PRODUCT)
    build(f"embeddings={tmp_path / 'export'}", f"output_dir={tmp_path / 'index'}")
    new = clustered(5, seed=3)
    more = export_matrix(tmp_path / "more", new, INNER_PRODUCT)
    pl.DataFrame({"id": [1003, 1004]}).write_csv(tmp_path / "gone.csv")
    index = f"index={tmp_path / 'index'}"
    with pytest.raises(SchemaError, match="1000 is in the index already"):
        build(index, f"add={more.folder}", f"output_dir={tmp_path / 'changed'}")
    with pytest.raises(ConfigError, match="nothing to change"):
        build(index)
    pl.DataFrame({"id": range(1000, 1005)}).write_csv(tmp_path / "gone.csv")
    changed = build(
        index, f"add={more.folder}", f"remove={tmp_path / 'gone.csv'}",
        f"output_dir={tmp_path / 'changed'}",
    )["card"]  # fmt: skip
    assert changed["changed"] == {"added": 5, "removed": 5}
    assert changed["measured"]["chosen"]["recall"] == 1.0  # compared one by one
    assert "recall@10 1.0000" in capsys.readouterr().out
    loaded = load_index(tmp_path / "changed").index
    assert len(loaded) == 100
    best = loaded.search(100 * new, 1).positions[:, 0]
    assert all(loaded.removed[: len(clustered(100))][:5])
    assert set(best) <= set(range(5, 105))
    assert len(load_index(tmp_path / "index").index) == 100
    export_matrix(tmp_path / "cosine", clustered(3), COSINE)
    with pytest.raises(SchemaError, match="of similarity cosine, the index of inner_product"):
        build(index, f"add={tmp_path / 'cosine'}", f"output_dir={tmp_path / 'x'}")


def test_impossible_requests(tmp_path: Path) -> None:
    found = export_matrix(tmp_path / "export", clustered(100), COSINE)
    embeddings = f"embeddings={tmp_path / 'export'}"
    with pytest.raises(ConfigError, match="give embeddings=<export> to build"):
        build()
    with pytest.raises(ConfigError, match="add and remove change an index"):
        build(embeddings, "remove=x.csv")
    with pytest.raises(ConfigError, match="Did you mean hnsw"):
        build(embeddings, "retrieval=hsnw")
    with pytest.raises(ConfigError, match="min_recall=2"):
        build(embeddings, "retrieval.min_recall=2.0")
    with pytest.raises(ConfigError, match=r"retrieval\.k=101 of 100 vectors"):
        build(embeddings, "retrieval.k=101")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("x")
    with pytest.raises(ConfigError, match="holds other files"):
        build(embeddings, f"output_dir={tmp_path / 'mine'}")
    file = found.folder / "part-00000.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="is corrupted"):
        build(embeddings)
