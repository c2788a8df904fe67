"""python -m pipelines.export_embeddings: a finished run in, Parquet under external ids out."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.build_index import build_index
from pipelines.export_embeddings import export_embeddings
from pipelines.recommend import recommend
from recsys import config
from recsys.errors import ConfigError
from recsys.models.saved import SavedModel
from recsys.models.saved_cf import SavedCF
from recsys.retrieval.exported import ExportedVectors
from tests.pipelines.test_ranking_run import run

KEYS = ("cf=bprmf", "trainer.epochs=2", "trainer.eval_every=1", "cf.embed_dim=8")


@pytest.fixture(scope="module")
def cf_run(pair_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cf") / "run"
    run(pair_table, folder, *KEYS)
    return folder


def export(*keys: str) -> dict[str, Any]:
    return export_embeddings(
        config.compose("export_embeddings", ["console=none", "tracking=none", *keys])
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_users_and_items_of_a_run(dtype: str, cf_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = export(
        f"run={cf_run}", f"dtype={dtype}", "rows_per_shard=25", "projector=10", f"output_dir={out}"
    )
    assert made["folder"] == str(out)
    saved = SavedCF.load(cf_run / "model")
    vectors = saved.vectors()
    assert vectors is not None
    for name, matrix in zip(("users", "items"), vectors, strict=True):
        found = ExportedVectors.open(out / name)
        found.verify()
        back = np.concatenate(list(found.blocks(10)))
        largest = float(matrix.detach().abs().max())
        np.testing.assert_allclose(
            back, matrix.detach().numpy(), atol=0 if dtype == "float32" else largest / 200
        )
        assert len(found.card["files"]) == -(-len(matrix) // 25)
        assert found.facts["run_id"] == saved.facts["run_id"]
        assert found.facts["data_digest"] == saved.facts["data_digest"]
        assert (out / name / "projection.png").stat().st_size > 5000
        assert pl.read_csv(out / name / "projection.csv").height == len(matrix)
        assert len((out / name / "embeddings.tsv").read_text().splitlines()) == 10
    assert (
        pl.read_parquet(out / "users" / "*.parquet")["id"].to_list()
        == saved.data.user_ids.to_pylist()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("normalize", "similarity"), [(True, "cosine"), (False, "inner_product")])
def test_towers_say_what_compares_their_vectors(
    normalize: bool, similarity: str, pair_table: Path, tmp_path: Path
) -> None:
    run(pair_table, tmp_path / "run", "towers=twotower", "trainer.epochs=1",
        f"towers.normalize={str(normalize).lower()}")  # fmt: skip
    out = tmp_path / "out"
    export(f"run={tmp_path / 'run'}", f"output_dir={out}")
    users, items = (ExportedVectors.open(out / name) for name in ("users", "items"))
    assert (users.similarity, items.similarity) == (similarity, similarity)
    assert items.facts["model"] == "twotower"
    if normalize:
        np.testing.assert_allclose(items.norms, 1.0, rtol=1e-5)
    keys = ["retrieval=hnsw", "console=none", "tracking=none", f"output_dir={tmp_path / 'index'}"]
    build_index(config.compose("build_index", [f"embeddings={out}", *keys]))
    lists = [
        recommend(
            config.compose(
                "recommend",
                [f"run={tmp_path / 'run'}", "user=p3", "k=5", "console=none", *more],
            )
        )["recommendations"]
        for more in ([], [f"index={tmp_path / 'index'}"])
    ]
    assert lists[0]["item"].equals(lists[1]["item"])
    np.testing.assert_allclose(lists[0]["score"], lists[1]["score"], rtol=1e-4, atol=1e-6)


def test_a_field_of_a_click_model(trained: Path, tmp_path: Path) -> None:
    made = export(f"run={trained}", "field=item", f"output_dir={tmp_path / 'out'}")
    (card,) = made["tables"]
    assert (card["name"], card["similarity"]) == ("item", "cosine")
    saved = SavedModel.load(trained / "model")
    found = ExportedVectors.open(tmp_path / "out")
    np.testing.assert_array_equal(
        np.concatenate(list(found.blocks(7))),
        saved.recommender.lookup.field_vectors("item").numpy(),
    )
    assert set(found.ids.to_pylist()) <= {f"item-{i}" for i in range(80)}
    with pytest.raises(ConfigError, match="field is missing"):
        export(f"run={trained}")


def test_impossible_requests(cf_run: Path, pair_table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run is missing"):
        export()
    with pytest.raises(ConfigError, match="field=item is nothing for the run of a cf model"):
        export(f"run={cf_run}", "field=item")
    with pytest.raises(ConfigError, match="Did you mean float16"):
        export(f"run={cf_run}", "dtype=floa16")
    with pytest.raises(ConfigError, match="rows_per_shard=0"):
        export(f"run={cf_run}", "rows_per_shard=0")
    with pytest.raises(ConfigError, match="neither a folder nor a run"):
        export(f"run={tmp_path / 'nowhere'}")
    run(pair_table, tmp_path / "ease", "cf=ease")
    with pytest.raises(ConfigError, match="EASE has no vectors"):
        export(f"run={tmp_path / 'ease'}")
