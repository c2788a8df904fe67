"""Two towers from a table of interactions to lists of items, and what is refused on the way."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from pipelines.evaluate import evaluate
from pipelines.train import train
from recsys import config
from recsys.data.datasets.interactions import interactions
from recsys.data.triples import Triples
from recsys.errors import ConfigError, SchemaError
from recsys.metrics.ranking import FullRanking
from recsys.models.saved_cf import SavedCF
from recsys.models.two_sided import TowersModel
from recsys.training.ranking_loop import RankingTrainer
from recsys.training.signals import Interrupted

QUICK = (
    "trainer.epochs=4", "trainer.eval_every=1", "trainer.patience=0", "trainer.batch_size=128",
    "optimizer.lr=0.02", "towers.embed_dim=8",
)  # fmt: skip
COLUMNS = ("data.user_columns=[group]", "data.item_columns=[kind,size,words]")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of people, each with a kind of items; columns of both in every row."""
    rng = np.random.default_rng(0)
    rows = [
        (f"p{user}", f"i{item}", f"g{user % 2}", f"k{item % 2}", item / 7, [f"w{item % 3}"])
        for user in range(60)
        for item in range(40)
        if rng.random() < (0.4 if user % 2 == item % 2 else 0.02)
    ]
    names = ["user", "item", "group", "kind", "size", "words"]
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    frame = pl.DataFrame(rows, schema=names, orient="row")
    frame.with_columns(mood=pl.Series(rng.integers(0, 9, frame.height))).write_parquet(path)
    return path


def run(log: Path, folder: Path, *keys: str) -> dict[str, Any]:
    overrides = [
        "towers=twotower", "data=interactions", f"data.path={log}", "tracking=none", "console=none",
        f"output_dir={folder}", "ks=[5,10]", "trainer.monitor=recall_at_10", *QUICK, *keys,
    ]  # fmt: skip
    return train(config.compose("train", overrides))


@pytest.mark.parametrize("keys", [(), (*COLUMNS, "towers.hidden_dims=[16,8]")])
def test_from_a_log_to_lists_of_items(keys: tuple[str, ...], log: Path, tmp_path: Path) -> None:
    result = run(log, tmp_path / "run", *keys)
    assert set(result["metrics"]) == {"val", "test"}
    # Half of the items are the other kind: at random a list of 10 would find a quarter.
    assert result["metrics"]["test"]["recall_at_10"] > 0.4
    data = interactions(path=log)
    assert data.test is not None
    assert result["counts"]["test"]["num_train_pairs"] == len(data.train)
    assert result["counts"]["test"]["num_test_pairs"] == len(data.test)
    assert (result["data_digest"] == data.digest()) == (not keys)
    saved = SavedCF.load(tmp_path / "run" / "model")
    assert isinstance(saved.model, TowersModel)
    assert saved.model.similarity == "cosine"
    vectors = saved.vectors()
    assert vectors is not None
    torch.testing.assert_close(vectors[1].norm(dim=1), torch.ones(40))
    again = FullRanking(data.test, data.train, ks=(5, 10)).of_vectors(*vectors)
    assert again.metrics == result["metrics"]["test"]
    pl.DataFrame({"user": ["p1", "p2", "new"], "item": ["i3", "i4", "i5"]}).write_csv(
        tmp_path / "new.csv"
    )
    found = evaluate(
        config.compose(
            "evaluate",
            [f"run={tmp_path / 'run'}", f"data.path={tmp_path / 'new.csv'}", "ks=[3]",
             f"output_dir={tmp_path / 'out'}", "console=none"],
        )
    )  # fmt: skip
    assert found["counts"]["data"]["num_test_users"] == 2
    lists = pl.read_parquet(tmp_path / "out" / "recommendations.parquet")
    assert lists["user"].to_list() == ["p1"] * 3 + ["p2"] * 3
    assert set(lists["item"]) <= set(data.item_ids.to_pylist())


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the training that chooses, with everything drawn and estimated that can be."""
    keys = (*COLUMNS, "towers.uniform_negatives=16", "towers.unseen_share=0.2",
            "towers.correction=estimated", "towers.hidden_dims=[8]", "trainer.checkpoint_every=1",
            "trainer.epochs=3", "towers.mask_known=true", "towers.history=true")  # fmt: skip
    whole = run(log, tmp_path / "whole", *keys)
    assert whole["steps"] >= 4
    train_step = RankingTrainer.train_step
    count = 0

    def stopping(self: RankingTrainer, batch: Triples) -> Any:
        nonlocal count
        count += 1
        if count == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(RankingTrainer, "train_step", stopping)
        with pytest.raises(Interrupted, match=r"trainer\.resume=auto"):
            run(log, tmp_path / "parts", *keys)
    again = run(log, tmp_path / "parts", *keys, "trainer.resume=auto")
    assert again["metrics"] == whole["metrics"]
    assert again["steps"] == whole["steps"]
    one, two = (SavedCF.load(tmp_path / name / "model").model for name in ("whole", "parts"))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name


def test_tables_of_users_and_items(log: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(log)
    frame.unique("user").select(who="user", team="group").write_parquet(tmp_path / "people.parquet")
    frame.select(who="user", what="item").write_parquet(tmp_path / "pairs.parquet")
    result = run(
        tmp_path / "pairs.parquet", tmp_path / "run", f"data.users_path={tmp_path}/people.parquet",
        "data.user=who", "data.item=what", "towers.user_fields=[team]", "selection=test",
    )  # fmt: skip
    assert result["selection"] == "test"
    assert set(json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]) == {"test"}
    model = SavedCF.load(tmp_path / "run" / "model").model
    assert isinstance(model, TowersModel)
    assert model.user_side.pipeline.schema.names == ("team",)
    users, _ = model()
    assert len(users.unique(dim=0)) == 2  # nothing but the team tells people apart


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["data.user=usr"], 'no column "usr".*Did you mean user'),
        (["data.item=ittem"], 'no column "ittem".*Did you mean item'),
        (["data.rating=stars", "data.min_rating=4"], 'no column "stars"'),
        (["data.item_columns=[knd]"], 'no column "knd".*Did you mean kind'),
        (["data.user_columns=[mood]"], r'"mood" is to be one of users, but user .* has \d and \d'),
        (["towers.user_fields=[group]"], 'no field "group"'),
        (["towers.temprature=1"], r"Did you mean towers\.temperature"),
        (["embedding.dim=32"], r"towers\.embed_dim"),
        (["optimizer=rowwise_adagrad"], "towers models are trained by optimizer=adam"),
        (["optimizer.embedding_l2=0.1"], r"see towers\.\*"),
    ],
)
def test_bad_input_is_named(log: Path, tmp_path: Path, keys: list[str], message: str) -> None:
    with pytest.raises((ConfigError, SchemaError), match=message):
        run(log, tmp_path / "run", *keys)


@pytest.mark.parametrize("key", ["user_columns=[group]", "items_path=table.parquet"])
def test_columns_are_nothing_for_models_of_pairs(key: str, log: Path, tmp_path: Path) -> None:
    overrides = ["cf=popularity", "data=interactions", f"data.path={log}", f"data.{key}",
                 f"output_dir={tmp_path}", "tracking=none", "console=none"]  # fmt: skip
    with pytest.raises(ConfigError, match="is nothing for cf models, which know users and items"):
        train(config.compose("train", overrides))


def test_rows_without_pairs_are_refused() -> None:
    with pytest.raises(ConfigError, match="no user-item pairs"):
        train(config.compose("train", ["towers=twotower", "data=criteo", "console=none"]))
