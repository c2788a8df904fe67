"""Tables: how runs group, which parameters show, what is compared with what."""

import math

import pytest

from recsys.comparison.table import compare, direction
from recsys.errors import ConfigError
from tests.comparison.runs import clicks, record


def test_seeds_of_one_configuration_share_a_row() -> None:
    (table,) = compare(clicks())
    assert [(row.model, len(row.runs)) for row in table.rows] == [
        ("deepfm", 3), ("deepfm", 1), ("lr", 3)
    ]  # fmt: skip
    spread = table.rows[0].spread("test/auc")
    assert spread is not None
    assert (spread.mean, spread.sd, spread.n) == (pytest.approx(0.81), pytest.approx(0.01), 3)
    alone = table.rows[1].spread("test/auc")
    assert alone is not None
    assert math.isnan(alone.sd)
    assert table.varying == ("optimizer.lr",)
    assert table.metrics == ("test/auc", "test/logloss", "fit_seconds")
    assert [list(table.best(name)) for name in table.metrics] == [[0], [0], [1]]
    assert [table.label(index) for index in range(3)] == ["deepfm lr=0.001", "deepfm lr=0.01", "lr"]


def test_a_models_own_parameters_count_within_the_model() -> None:
    heads = [record("autoint", 0, 0.8, params={"ctr.num_heads": n, "trainer.epochs": "1"})
             for n in ("2", "4")]  # fmt: skip
    (table,) = compare(
        [*heads, record("lr", 0, 0.7, params={"ctr.l2": "1", "trainer.epochs": "9"})]
    )
    assert table.varying == ("ctr.num_heads", "trainer.epochs")


def test_the_newer_of_two_runs_of_one_seed_counts() -> None:
    runs = [record("lr", 0, 0.9, started=2.0), record("lr", 0, 0.1, started=1.0)]
    (table,) = compare(runs)
    assert table.rows[0].values("test/auc") == {0: 0.9}
    assert "1 run left out" in table.notes[0]


def test_differences_to_the_baseline_are_paired_by_seed() -> None:
    (table,) = compare(clicks(), baseline="lr")
    assert table.baseline == 2
    assert set(table.differences) == {0, 1}
    change = table.differences[0].seeds
    assert change is not None
    assert (change.mean, change.n) == (pytest.approx(0.10), 3)
    assert table.differences[0].p_holm == pytest.approx(change.p)  # the only test
    alone = table.differences[1].seeds
    assert alone is not None
    assert alone.n == 1
    assert math.isnan(table.differences[1].p_holm)
    assert any("no test over seeds for 1 of 2 rows" in note for note in table.notes)


def test_data_of_other_digests_stands_in_another_table() -> None:
    runs = [*clicks(), record("fm", 0, 0.99, digest="d2")]
    tables = compare(runs, baseline="lr")
    assert [len(table.rows) for table in tables] == [3, 1]
    assert "has no run on this data" in tables[1].notes[-1]
    (joined,) = compare(runs, baseline="lr", same_rows=True)
    assert len(joined.rows) == 4
    assert "data digest" in joined.varying
    assert "you vouch" in " ".join(joined.notes)


def test_sort_and_top() -> None:
    (table,) = compare(clicks(), sort="logloss", top=1, baseline="lr")
    assert [row.model for row in table.rows] == ["deepfm", "lr"]
    assert table.baseline == 1
    assert "top=1" in " ".join(table.notes)
    (table,) = compare(clicks(), sort="optimizer.lr")
    assert [row.params["optimizer.lr"] for row in table.rows] == ["0.001", "0.001", "0.01"]
    (table,) = compare(clicks(), sort="model")
    assert [row.model for row in table.rows] == ["deepfm", "deepfm", "lr"]


def test_metrics_of_tasks_and_of_lists() -> None:
    (tasks,) = compare(
        [record("mmoe", 0, 0.7, metrics={"test/click/auc": 0.8, "test/like/auc": 0.6})],
        metric="click/auc",
    )
    assert tasks.metric == "test/click/auc"
    lists = record("ease", 0, 0.0)
    lists = type(lists)(**{**vars(lists), "metrics": {
        "test/recall_at_5": 0.1, "test/recall_at_20": 0.2, "test/ndcg_at_10": 0.3}})  # fmt: skip
    (table,) = compare([lists])
    assert table.metrics == ("test/recall_at_20", "test/ndcg_at_10")


def test_directions() -> None:
    names = ["test/recall_at_20", "test/click/logloss", "fit_seconds", "test/novelty_at_20"]
    assert [direction(name) for name in names] == [1, -1, -1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "aucc"}, "Did you mean test/auc"),
        ({"metrics": ["recall"]}, "metrics=recall: no run has it"),
        ({"baseline": "lightgbm"}, "Allowed: deepfm, lr"),
        ({"baseline": "deepfm"}, "means 2 configurations. Say which"),
        ({"sort": "optimiser.lr"}, "Did you mean optimizer.lr"),
    ],
)
def test_what_is_not_there(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(clicks(), **options)


def test_no_runs_and_one_run() -> None:
    with pytest.raises(ConfigError, match="no finished run"):
        compare([])
    (table,) = compare([record("lr", 0, 0.7)], baseline="lr")
    assert table.best("test/auc") == ()
    assert table.differences == {}
