"""Ids that get rows while training, as a person meets them: by day, and in everything after."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import open_dict

from pipelines.ranking_run import RankingRun
from pipelines.tracked_run import loggable
from pipelines.training_run import TrainingRun
from recsys import config
from recsys.data.encode import FeaturePipeline
from recsys.data.schema import NUM_RESERVED, UNSEEN
from recsys.errors import ConfigError
from recsys.models.copies import program_scorer
from recsys.models.saved import SavedModel
from recsys.models.scorer import PROGRAM
from recsys.serving.row_encoder import RowEncoder
from recsys.serving.rows import RowReader
from tests.pipelines.conftest import Run

DYNAMIC = ["embedding.vocabulary=dynamic", "embedding.capacity={user_id: 150, item_id: 400}"]
KEYS = [
    "ctr=fm", "data=parquet", "data.label=click", "optimizer=lazy_adam", "optimizer.lr=0.02",
    "trainer.batch_size=256", "trainer.epochs=2", "trainer.patience=0", "embedding.dim=4",
    "tracking=none", "importance_rows=0",
]  # fmt: skip


def day(number: int, rows: int = 1500) -> pl.DataFrame:
    """Every day has a hundred users and items of its own, and fifty of the day before."""
    rng = np.random.default_rng(number)
    users, items = (100 * number + rng.integers(-50, 100, (2, rows))).clip(0)
    logit = np.sin(users * 12.9) * 1.5 + np.sin(items * 78.2) * 1.5
    return pl.DataFrame(
        {
            "user_id": users,
            "item_id": items,
            "brand": [f"b{b}" for b in rng.integers(number, number + 3, rows)],
            "price": rng.normal(number, 1, rows),
            "seen_items": [items[max(0, i - 2) : i].tolist() for i in range(rows)],
            "click": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8),
        },
        schema_overrides={"seen_items": pl.List(pl.Int64)},
    )


Train = Callable[..., Path]


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("days")
    for number in range(3):
        day(number).write_parquet(folder / f"day{number}.parquet")
    return folder


@pytest.fixture(scope="module")
def train(days: Path) -> Train:
    """Train in this process; returns the output folder."""

    def start(name: str, number: int, *more: str) -> Path:
        output = days / name
        path = f"data.path={days}/day{number}.parquet"
        cfg = config.compose("train", [*KEYS, *DYNAMIC, path, *more, f"output_dir={output}"])
        cfg.console = "none"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(days)
            TrainingRun(cfg, "ctr").run()
        return output

    return start


@pytest.fixture(scope="module")
def first(train: Train) -> Path:
    return train("first", 0)


@pytest.fixture(scope="module")
def second(train: Train, first: Path) -> Path:
    """The next day, from where the first one ended."""
    return train("second", 1, f"init_from={first}")


def rows_of(model: SavedModel, field: str, ids: list[int]) -> list[int]:
    vocabularies = model.recommender.lookup.vocabularies
    assert vocabularies is not None
    (table,) = (one for one in vocabularies if one.name == field)
    return table.ids.find(torch.tensor(ids) + NUM_RESERVED).tolist()


def test_ids_of_the_next_day_get_rows_and_those_before_keep_theirs(
    first: Path, second: Path
) -> None:
    before, after = (SavedModel.load(one / "model") for one in (first, second))
    assert before.pipeline.digest() == after.pipeline.digest()
    old, new = sorted(set(day(0)["item_id"])), sorted(set(day(1)["item_id"]))
    assert UNSEEN not in rows_of(before, "item_id", old)
    known = rows_of(before, "item_id", new)
    assert 0 < known.count(UNSEEN) < len(new)
    assert UNSEEN not in rows_of(after, "item_id", new)
    assert rows_of(after, "item_id", old) == rows_of(before, "item_id", old)
    told = json.loads((second / "result.json").read_text())["vocabularies"]
    assert told["item_id"]["evicted"] == 0
    assert told["user_id"] == {
        "rows": 150,
        "capacity": 150,
        "evicted": told["user_id"]["evicted"],
    }
    assert told["user_id"]["evicted"] > 0, "150 rows, and two days have more users"
    table = day(1)
    assert np.mean(before.predict(table) != after.predict(table)) > 0.9


def test_brands_keep_the_codes_of_the_first_day(second: Path, days: Path) -> None:
    pipeline = FeaturePipeline.load(second / "model" / "pipeline")
    assert sorted(pipeline.tokens("brand")[NUM_RESERVED:].to_pylist()) == ["b0", "b1", "b2"]


def test_a_run_that_is_stopped_in_an_epoch_ends_with_the_same_bits(
    train: Train, days: Path
) -> None:
    small = ["embedding.capacity=60", "embedding.min_count=2", "embedding.evict=least_frequent"]
    keys = ["trainer.checkpoint_every=1", "trainer.keep_last=40", *small]
    whole = train("whole", 0, *keys)
    steps = sorted((whole / "checkpoints").glob("step-*"))
    for one in steps[3:]:  # as if the process had been killed in the first epoch
        for file in sorted(one.rglob("*")):
            file.unlink()
        one.rmdir()
    model = {one.name: one.read_bytes() for one in (whole / "model").glob("*.safetensors")}
    told = json.loads((whole / "result.json").read_text())
    for file in (whole / "checkpoints" / "best.json", whole / "result.json"):
        file.unlink()
    train("whole", 0, *keys, "trainer.resume=auto")
    again = json.loads((whole / "result.json").read_text())
    assert again["metrics"] == told["metrics"]
    assert again["vocabularies"] == told["vocabularies"]
    assert told["vocabularies"]["user_id"]["evicted"] > 0
    assert model == {one.name: one.read_bytes() for one in (whole / "model").glob("*.safetensors")}


def test_a_new_process_scores_ids_that_nobody_has_seen(run: Run, second: Path, days: Path) -> None:
    """And reads the same file for the same ids: nothing is learnt by scoring."""
    output = days / "scored"
    run(
        "pipelines.evaluate", f"run={second}", f"data.path={days}/day2.parquet",
        f"output_dir={output}",
    )  # fmt: skip
    scores = pq.read_table(output / "predictions.parquet")["probability"].to_numpy()
    np.testing.assert_array_equal(scores, SavedModel.load(second / "model").predict(day(2)))


def test_rows_of_requests_get_the_codes_of_the_table(second: Path) -> None:
    pipeline = FeaturePipeline.load(second / "model" / "pipeline")
    rows = day(2).drop("click").head(40)
    reader = RowReader(pipeline.schema, 1000)
    encoded = RowEncoder(pipeline).encode(
        [reader.read(json.dumps({"rows": rows.to_dicts()}).encode())]
    )
    expected = pipeline.transform(rows)
    np.testing.assert_array_equal(encoded.ids, expected.ids)
    np.testing.assert_array_equal(encoded.ragged["seen_items"][0], expected.ragged["seen_items"][0])


def test_vectors_are_exported_under_their_ids(told: Run, second: Path, days: Path) -> None:
    output = days / "vectors"
    keys = [f"run={second}", "console=none", f"output_dir={output}"]
    done = told("pipelines.export_embeddings", *keys, "field=item_id")
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(output / "item_id" / "*.parquet")
    model = SavedModel.load(second / "model")
    weights = model.recommender.lookup.field_vectors("item_id")
    rows = torch.tensor(rows_of(model, "item_id", table["id"].to_list())) - NUM_RESERVED
    np.testing.assert_array_equal(np.stack(table["vector"].to_list()), weights[rows].numpy())
    assert set(table["id"]) == set(day(0)["item_id"]) | set(day(1)["item_id"])
    assert table["popularity"].min() >= 1


def test_texts_are_hashed_and_cannot_be_exported(told: Run, train: Train, days: Path) -> None:
    path = days / "day0.parquet"
    pl.read_parquet(path).with_columns(pl.format("i{}", "item_id").alias("item_id")).drop(
        "seen_items"
    ).write_parquet(days / "day9.parquet")
    folder = train("texts", 9)
    done = told("pipelines.export_embeddings", f"run={folder}", "field=item_id", "console=none")
    assert done.returncode == 2
    assert "keeps hashes alone" in done.stderr
    assert "vocabulary=fitted" in done.stderr


def test_smaller_copies_and_a_file_for_torch_alone_agree(
    told: Run, second: Path, days: Path
) -> None:
    output = days / "copies"
    done = told(
        "pipelines.export_model", f"run={second}", "tables=float16", "program=true",
        "console=none", f"data.path={days}/day2.parquet", f"output_dir={output}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = SavedModel.load(second / "model")
    encoded = model.pipeline.transform(day(2))
    expected = model.logits_of(encoded)
    (program,) = output.rglob(PROGRAM)
    np.testing.assert_allclose(program_scorer(program)(encoded), expected, atol=2e-3)
    compact = next(output.rglob("model.json")).parent
    np.testing.assert_allclose(SavedModel.load(compact).logits_of(encoded), expected, atol=2e-3)


def bad(*overrides: str) -> Any:
    return config.compose("train", [*KEYS, *DYNAMIC, *overrides])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["gate=optfs", "optimizer=adam"], r"gate=optfs with embedding\.vocabulary=dynamic"),
        (["optimizer.embedding_mba=1.0"], "embedding_mba with"),
        (["embedding.sharding=row_wise"], r"Use embedding\.sharding=none"),
        (["embedding.capacity=0"], r"capacity=0; it must be"),
    ],
)
def test_what_cannot_be_dynamic_is_refused_before_data_is_read(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingRun(bad(*overrides), "ctr")


def test_runs_with_fitted_vocabularies_are_named_and_logged_as_before() -> None:
    cfg = config.compose("train", ["ctr=fm"])
    before = config.compose("train", ["ctr=fm"])
    with open_dict(before):
        for key in config.DYNAMIC:
            del before.embedding[key]
    assert config.identity(cfg) == config.identity(before)
    assert loggable(cfg) == loggable(before)
    dynamic = config.compose("train", ["ctr=fm", "embedding.vocabulary=dynamic"])
    assert config.identity(dynamic) != config.identity(cfg)
    assert "capacity" in loggable(dynamic)["embedding"]


def test_other_layouts_are_refused() -> None:
    cfg = config.compose("train", ["ctr=fm", "embedding=hashed", "embedding.vocabulary=dynamic"])
    with pytest.raises(ConfigError, match="Use embedding=full"):
        TrainingRun(cfg, "ctr")


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="Start without torchrun"):
        TrainingRun(bad(), "ctr")


def test_models_without_such_tables_are_refused(told: Run) -> None:
    cfg = config.compose(
        "train", ["cf=bprmf", "data=interactions", "embedding.vocabulary=dynamic", "data.path=x"]
    )
    with pytest.raises(ConfigError, match="is for ctr and mtl models; cf"):
        RankingRun(cfg, "cf").run()
    done = told("pipelines.train", "ctr=lightgbm", "embedding.vocabulary=dynamic")
    assert done.returncode == 2
    assert "no embedding rows to give out" in done.stderr


def test_the_run_to_go_on_from_must_be_dynamic_as_well(train: Train, days: Path) -> None:
    folder = train("fitted", 0, "embedding.vocabulary=fitted", "embedding.capacity=100000")
    with pytest.raises(ValueError, match="the run to go on from"):
        train("refused", 1, f"init_from={folder}")


def test_soups_are_refused(told: Run, first: Path, second: Path) -> None:
    done = told("pipelines.soup", f"runs=[{first},{second}]", "console=none")
    assert done.returncode == 2
    assert "rows belong to the ids" in done.stderr
