"""python -m pipelines.recommend: external ids and titles in and out, and the whole chain."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.build_index import build_index
from pipelines.evaluate import evaluate
from pipelines.export_embeddings import export_embeddings
from pipelines.recommend import recommend
from pipelines.train import train
from recsys import config
from recsys.data.datasets import movielens100k
from recsys.errors import CheckpointError, ConfigError, SchemaError
from recsys.models.saved import SavedModel
from recsys.models.saved_cf import SavedCF
from tests.pipelines.conftest import ROOT

MOVIELENS = ROOT.parent / "shared" / "data" / "ml-100k"
QUIET = ["console=none", "tracking=none"]


def ask(run: Path, *keys: str) -> dict[str, Any]:
    return recommend(config.compose("recommend", [f"run={run}", *QUIET, *keys]))


def rows(run: Path, *keys: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(run, *keys)["recommendations"].to_pylist()
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def cf_run(pair_table: Path, home: Path) -> Path:
    train(
        config.compose(
            "train",
            ["cf=bprmf", "data=interactions", f"data.path={pair_table}", "trainer.epochs=4",
             "trainer.eval_every=2", "cf.embed_dim=8", "ks=[5]", "trainer.monitor=recall_at_5",
             f"output_dir={home / 'run'}", *QUIET],
        )
    )  # fmt: skip
    return home / "run"


@pytest.fixture(scope="module")
def index(cf_run: Path, home: Path) -> Path:
    export_embeddings(
        config.compose(
            "export_embeddings", [f"run={cf_run}", f"output_dir={home / 'export'}", *QUIET]
        )
    )
    keys = [f"embeddings={home / 'export'}", "retrieval=hnsw", f"output_dir={home / 'index'}"]
    build_index(config.compose("build_index", [*keys, *QUIET]))
    return home / "index"


@pytest.fixture(scope="module")
def tables(home: Path) -> tuple[Path, Path]:
    """Items and users with columns of their own."""
    items = pl.DataFrame(
        {
            "item": [f"i{n}" for n in range(40)],
            "title": [f"Film {n}" for n in range(40)],
            "year": [1980 + n for n in range(40)],
            "genres": [["Drama"] if n % 4 else ["Comedy", "Drama"] for n in range(40)],
        }
    )
    users = pl.DataFrame(
        {"user": [f"p{n}" for n in range(60)], "age": [float(n % 9) for n in range(60)]}
    )
    items.write_parquet(home / "items.parquet")
    users.write_parquet(home / "users.parquet")
    return home / "items.parquet", home / "users.parquet"


def test_one_user(cf_run: Path, index: Path, tables: tuple[Path, Path]) -> None:
    saved = SavedCF.load(cf_run / "model")
    expected = saved.recommend(["p7"], 6)
    exact = rows(cf_run, "user=p7", "k=6")
    assert [row["item"] for row in exact] == expected["item"].to_pylist()
    assert [row["rank"] for row in exact] == [1, 2, 3, 4, 5, 6]
    assert "title" not in exact[0]
    served = rows(cf_run, "user=p7", "k=6", f"index={index}", f"items={tables[0]}")
    assert [row["item"] for row in served] == [row["item"] for row in exact]
    assert [row["title"] for row in served] == [f"Film {row['item'][1:]}" for row in served]
    everything = rows(cf_run, "user=p7", "k=40", "known=true")
    assert len(everything) == 40
    codes = saved.data.user_ids.to_pylist().index("p7")
    assert len(rows(cf_run, "user=p7", "k=40")) == 40 - len(saved.data.train.of_user(codes))


def test_a_table_of_users(
    cf_run: Path, index: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    saved = SavedCF.load(cf_run / "model")
    made = []
    for number, more in enumerate((["block_users=7"], [f"index={index}"])):
        out = tmp_path / str(number)
        result = ask(cf_run, f"users={tables[1]}", "k=5", f"output_dir={out}", *more)
        assert (result["users"], result["rows"], result["missing_rows"]) == (60, 300, 0)
        made.append(pl.read_parquet(out / "recommendations.parquet"))
        assert [file.name for file in out.glob(".*")] == []
    expected = saved.recommend([f"p{n}" for n in range(60)], 5)
    for found in made:
        assert found["user"].to_list() == expected["user"].to_pylist()
        assert found["item"].to_list() == expected["item"].to_pylist()


def test_conditions_and_lists(cf_run: Path, index: Path, tables: tuple[Path, Path]) -> None:
    items = f"items={tables[0]}"
    for more in ([], [f"index={index}"]):
        found = rows(cf_run, "user=p7", "k=5", items, "where=genres=Comedy and year>=1990", *more)
        assert found
        assert all(int(row["item"][1:]) % 4 == 0 and int(row["item"][1:]) >= 10 for row in found)
    best = [row["item"] for row in rows(cf_run, "user=p7", "k=8")]
    folder = tables[0].parent
    pl.DataFrame({"item": best[:3]}).write_csv(folder / "deny.csv")
    pl.DataFrame({"item": best[2:6]}).write_csv(folder / "allow.csv")
    deny, allow = f"deny={folder / 'deny.csv'}", f"allow={folder / 'allow.csv'}"
    for more in ([], [f"index={index}"]):
        assert [r["item"] for r in rows(cf_run, "user=p7", "k=5", deny, *more)] == best[3:8]
        found = rows(cf_run, "user=p7", "k=5", deny, allow, *more)
        assert [row["item"] for row in found] == best[3:6]


def test_similar_items(cf_run: Path) -> None:
    found = rows(cf_run, "item=i3", "k=4")
    assert len(found) == 4
    assert all(row["item"] != "i3" and row["item_asked"] == "i3" for row in found)
    assert [row["score"] for row in found] == sorted((r["score"] for r in found), reverse=True)


def test_users_nobody_knows(
    cf_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SchemaError, match=r"'nobody' is not among the 60 users.*fallback=popul"):
        ask(cf_run, "user=nobody")
    found = rows(cf_run, "user=nobody", "k=3", "fallback=popularity", "console=plain")
    assert "by popularity (it is not in the training pairs)" in capsys.readouterr().out
    data = SavedCF.load(cf_run / "model").data
    best = np.argsort(-data.train.item_degrees, kind="stable")[:3]
    assert [row["item"] for row in found] == [data.item_ids[int(i)].as_py() for i in best]
    pl.DataFrame({"user": ["p1", "x", "p2", "y"]}).write_csv(tmp_path / "u.csv")
    with pytest.raises(SchemaError, match=r"'x' is not among .* \(2 such\)"):
        ask(cf_run, f"users={tmp_path / 'u.csv'}", f"output_dir={tmp_path / 'out'}")
    assert not list((tmp_path / "out").iterdir())
    ask(cf_run, f"users={tmp_path / 'u.csv'}", f"output_dir={tmp_path / 'out'}",
        "fallback=popularity", "k=3")  # fmt: skip
    table = pl.read_parquet(tmp_path / "out" / "recommendations.parquet")
    assert table.group_by("user").agg(pl.col("source").unique()).sort("user").rows() == [
        ("p1", ["model"]), ("p2", ["model"]), ("x", ["popularity"]), ("y", ["popularity"])
    ]  # fmt: skip


def test_retrieved_by_one_model_ranked_by_another(
    cf_run: Path, index: Path, tables: tuple[Path, Path], pair_table: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pairs = pl.read_parquet(pair_table).with_columns(clicked=pl.lit(1))
    others = pl.DataFrame(
        {"user": [f"p{n}" for n in rng.integers(0, 60, 500)],
         "item": [f"i{n}" for n in rng.integers(0, 40, 500)], "clicked": 0}
    )  # fmt: skip
    items, users = tables
    log = pl.concat([pairs, others]).join(pl.read_parquet(items).drop("title", "genres"), on="item")
    log.join(pl.read_parquet(users), on="user").write_parquet(tmp_path / "log.parquet")
    train(
        config.compose(
            "train",
            ["ctr=lr", "data=parquet", f"data.path={tmp_path / 'log.parquet'}",
             "data.label=clicked", "trainer.epochs=1", "importance_rows=0",
             f"output_dir={tmp_path / 'ctr'}", *QUIET],
        )
    )  # fmt: skip
    keys = [f"rank_by={tmp_path / 'ctr'}", f"items={items}", f"users={users}", "candidates=10"]
    candidates = [row["item"] for row in rows(cf_run, "user=p7", "k=10")]
    found = rows(cf_run, "user=p7", "k=4", f"index={index}", *keys)
    asked = pl.DataFrame({"user": "p7", "item": candidates}).join(
        pl.read_parquet(items), on="item", maintain_order="left"
    )
    scores = SavedModel.load(tmp_path / "ctr" / "model").predict(asked.with_columns(age=7.0))
    order = np.argsort(-scores, kind="stable")[:4]
    assert [row["item"] for row in found] == [candidates[i] for i in order]
    np.testing.assert_allclose([row["score"] for row in found], scores[order], rtol=1e-5)
    assert all(row["retrieval_score"] is not None for row in found)
    with pytest.raises(SchemaError, match="rank_by reads age, year, which no table has"):
        ask(cf_run, "user=p7", keys[0])
    with pytest.raises(ConfigError, match=r"is of a cf model\. Give the run of a ctr or mtl"):
        ask(cf_run, "user=p7", f"rank_by={cf_run}")
    with pytest.raises(ConfigError, match=r"is not of a model of users and items.*rank_by"):
        ask(tmp_path / "ctr", "user=p7")


def test_impossible_requests(
    cf_run: Path, index: Path, tables: tuple[Path, Path], pair_table: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="nobody is asked for"):
        ask(cf_run)
    with pytest.raises(ConfigError, match="k=41 items of a catalogue of 40; allowed are 1 to 40"):
        ask(cf_run, "user=p1", "k=41")
    with pytest.raises(ConfigError, match="k=0"):
        ask(cf_run, "user=p1", "k=0")
    with pytest.raises(SchemaError, match="item 'zzz' is not among the 40 items"):
        ask(cf_run, "item=zzz")
    with pytest.raises(ConfigError, match="which user is nothing for"):
        ask(cf_run, "item=i3", "user=p1")
    with pytest.raises(ConfigError, match="give items=<table>"):
        ask(cf_run, "user=p1", "where=year=1990")
    with pytest.raises(SchemaError, match=r'no column "yaer".*Did you mean year'):
        ask(cf_run, "user=p1", f"items={tables[0]}", "where=yaer=1990")
    with pytest.raises(ConfigError, match="none of the 40 items is left"):
        ask(cf_run, "user=p1", f"items={tables[0]}", "where=year=1066")
    with pytest.raises(ConfigError, match="fallback=mean; allowed: popularity"):
        ask(cf_run, "user=p1", "fallback=mean")
    train(
        config.compose(
            "train",
            ["cf=bprmf", "data=interactions", f"data.path={pair_table}", "trainer.epochs=1",
             "cf.embed_dim=8", "ks=[5]", "trainer.monitor=recall_at_5", "seed=1",
             f"output_dir={tmp_path / 'other'}", *QUIET],
        )
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="the index is stale: it is of the run"):
        ask(tmp_path / "other", "user=p1", f"index={index}")


@pytest.mark.slow
def test_from_ratings_to_film_titles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, evaluate, export, index, recommend: the five commands of the README."""
    if not MOVIELENS.is_dir():
        pytest.skip("the real data set ml-100k is not beside the repository")
    result = train(
        config.compose(
            "train",
            ["cf=ultragcn", "data=movielens100k", f"data.source={MOVIELENS}", "trainer.epochs=6",
             "trainer.eval_every=3", "cf.num_negatives=100", f"output_dir={tmp_path / 'run'}",
             *QUIET],
        )
    )  # fmt: skip
    keys = ["data=movielens100k", f"data.source={MOVIELENS}"]
    data = config.build_interactions(config.compose("train", keys).data)
    assert data.test is not None
    test_pairs = pl.DataFrame(
        {"user": data.user_ids.to_numpy()[data.test.users],
         "item": data.item_ids.to_numpy()[data.test.items]}
    )  # fmt: skip
    test_pairs.write_parquet(tmp_path / "pairs.parquet")
    evaluated = evaluate(
        config.compose(
            "evaluate",
            [f"run={tmp_path / 'run'}", f"data.path={tmp_path / 'pairs.parquet'}",
             f"output_dir={tmp_path / 'evaluated'}", *QUIET],
        )
    )  # fmt: skip
    recall = evaluated["metrics"]["data"]["recall_at_20"]
    assert recall == pytest.approx(result["metrics"]["test"]["recall_at_20"])  # type: ignore[index]
    export_embeddings(
        config.compose(
            "export_embeddings",
            [f"run={tmp_path / 'run'}", f"output_dir={tmp_path / 'export'}", *QUIET],
        )
    )
    card = build_index(
        config.compose(
            "build_index",
            [f"embeddings={tmp_path / 'export'}", "retrieval=hnsw", "retrieval.k=20",
             f"output_dir={tmp_path / 'index'}", *QUIET],
        )
    )["card"]  # fmt: skip
    movielens100k.movies(MOVIELENS).write_parquet(tmp_path / "films.parquet")
    capsys.readouterr()
    found = rows(
        tmp_path / "run", "user=1", "k=5", f"index={tmp_path / 'index'}", "console=plain",
        f"items={tmp_path / 'films.parquet'}", "deny=null",
    )  # fmt: skip
    printed = capsys.readouterr().out
    titles = dict(movielens100k.movies(MOVIELENS).select("item", "title").iter_rows())
    assert [row["title"] for row in found] == [titles[row["item"]] for row in found]
    assert all(row["title"] in printed for row in found)
    seen = {data.item_ids[int(i)].as_py() for i in data.train.of_user(0)}
    assert not seen.intersection(row["item"] for row in found)
    # Through the index all test users find about what the evaluator found by comparing everything.
    ids = pl.DataFrame({"user": data.user_ids.to_numpy()[np.flatnonzero(data.test.user_degrees)]})
    ids.write_parquet(tmp_path / "people.parquet")
    ask(tmp_path / "run", f"users={tmp_path / 'people.parquet'}", "k=20",
        f"index={tmp_path / 'index'}", f"output_dir={tmp_path / 'served'}")  # fmt: skip
    served = pl.read_parquet(tmp_path / "served" / "recommendations.parquet")
    hits = served.join(test_pairs, on=["user", "item"]).group_by("user").len("hits")
    per_user = test_pairs.group_by("user").len("n").join(hits, on="user", how="left")
    through = float((per_user["hits"].fill_null(0) / per_user["n"]).mean())  # type: ignore[arg-type]
    lost = 1 - card["measured"]["chosen"]["recall"]
    assert abs(through - recall) <= lost + 1e-9
    found = rows(tmp_path / "run", "user=1", "k=5", f"items={tmp_path / 'films.parquet'}",
                 "where=genres=Comedy and year>=1990")  # fmt: skip
    films = movielens100k.movies(MOVIELENS)
    comedies = set(films.filter(pl.col("genres").list.contains("Comedy"))["item"])
    assert comedies.issuperset(row["item"] for row in found)
