"""Columns by their ranking: what is left out, which sizes are tried, how trials begin."""

from pathlib import Path

import optuna
import polars as pl
import pytest
from optuna.trial import TrialState

from recsys.errors import ConfigError
from recsys.tuning.ranked_columns import (
    KEY,
    Halving,
    RankedColumns,
    SameSizePruner,
    read_columns,
)
from recsys.tuning.sampler import RETRY


@pytest.fixture
def ranking(tmp_path: Path) -> Path:
    """Ten columns above chance, one of them a copy; a pair without a marginal; noise."""
    rows = [(f"good{i}", 0.1 / (i + 1), 0.0, "") for i in range(10)]
    rows += [("copy", 0.1, 0.0, "same as good0, renamed or not"), ("left", 1e-5, 0.7, "")]
    rows += [("right", -1e-5, 0.9, ""), ("noise", 1e-4, 0.2, ""), ("worse", -1e-4, 0.01, "")]
    names, excess, q, flags = zip(*rows, strict=True)
    path = tmp_path / "ranking.csv"
    frame = {"feature": names, "score": excess, "excess": excess, "q": q, "flags": flags}
    pl.DataFrame(frame).write_csv(path)
    pl.DataFrame({
        "first": ["left", "noise", "good0"], "second": ["right", "worse", "copy"],
        "interaction": [0.03, 0.01, 0.2], "p": [1e-9, 0.01, 0.0],
    }).write_csv(tmp_path / "pairs.csv")  # fmt: skip
    return path


def test_copies_are_left_out_noise_comes_last_and_pairs_are_kept(ranking: Path) -> None:
    found = read_columns(ranking, shrink=True)
    assert found.dropped == ("copy",)
    # 0.1, 0.05, 0.033 come before the pair's 0.03, and 0.025 after it.
    assert found.names[:6] == ("good0", "good1", "good2", "left", "right", "good3")
    assert found.names[12:] == ("noise", "worse")
    assert found.sizes == (5, 12, 14)  # a third of the twelve above chance would part the pair
    assert found.taken(3) == ["good0", "good1", "good2"]


def test_without_shrinking_every_size_of_every_column_is_there(ranking: Path) -> None:
    found = read_columns(ranking, shrink=False)
    assert len(found.names) == 15
    assert found.sizes == tuple(range(1, 16))
    assert not found.halving


def test_a_plain_list_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("b\na\nc\nd\n")
    found = read_columns(path, shrink=True)
    assert found.names == ("b", "a", "c", "d")
    assert found.sizes == (4,)


def test_names_that_look_like_numbers_stay_names(ranking: Path) -> None:
    table = pl.read_csv(ranking)[:10].with_columns(feature=pl.Series([str(i) for i in range(10)]))
    table.write_csv(ranking)
    ranking.with_name("pairs.csv").write_text("first,second,interaction,p\n8,9,0.5,0.0\n")
    assert read_columns(ranking, shrink=True).names[:3] == ("8", "9", "0")


def test_nothing_above_chance_is_told(ranking: Path) -> None:
    pl.read_csv(ranking).with_columns(q=pl.lit(0.5)).write_csv(ranking)
    ranking.with_name("pairs.csv").unlink()
    with pytest.raises(ConfigError, match=r"no column tells more than chance.*shrink=false"):
        read_columns(ranking, shrink=True)


COLUMNS = RankedColumns(tuple("abcdefghijkl"), (3, 6, 12))
"""Three rungs."""


def test_the_best_third_of_a_size_is_tried_at_the_next() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    plan = Halving(COLUMNS)
    assert plan.counts == [6, 2, 1]

    def objective(trial: optuna.Trial) -> float:
        COLUMNS.dimension.suggest(trial)
        return trial.suggest_float("lr", 0, 1)

    for _ in range(18):
        plan(study)
        study.optimize(objective, n_trials=1)
    trials = study.get_trials()
    assert [one.params[KEY] for one in trials[:9]] == [3] * 6 + [6, 6, 12]
    best = sorted(one.params["lr"] for one in trials[:6])
    assert [one.params["lr"] for one in trials[6:8]] == best[:2]
    assert trials[8].params["lr"] == best[0]
    assert not any("rung" in one.user_attrs for one in trials[9:])
    for at in range(9, 18):
        if at % 3:  # the size of the best so far
            before = min(trials[:at], key=lambda one: (one.value, one.number))
            assert trials[at].params[KEY] == before.params[KEY]


def test_a_trial_that_is_waiting_or_was_repeated_is_not_queued_twice() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    plan = Halving(COLUMNS, 3)
    plan(study)
    plan(study)
    assert len(study.trials) == 1
    trial = study.ask()
    study.tell(trial, state=TrialState.FAIL)
    study.enqueue_trial({KEY: 3}, user_attrs={RETRY: 0, "rung": 0})
    trial = study.ask()
    COLUMNS.dimension.suggest(trial)
    study.tell(trial, 1.0)
    counted = 0
    for _ in range(10):
        plan(study)
        waiting = [one for one in study.trials if one.state == TrialState.WAITING]
        if not waiting or "rung" not in waiting[0].user_attrs:
            break
        counted += 1
        trial = study.ask()
        COLUMNS.dimension.suggest(trial)
        study.tell(trial, 1.0)
    assert counted == 2 + 1 + 1  # two more at the first size, one at each of the others


@pytest.mark.parametrize("promoted", [False, True])
def test_a_trial_is_compared_with_its_own_size(promoted: bool) -> None:
    """Five trials of few columns are far ahead after a validation; five of its own are not."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    inner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)
    pruner = SameSizePruner(inner)
    study = optuna.create_study(pruner=pruner)
    size = COLUMNS.dimension.distribution
    for columns, value in ((3, 0.1), (12, 0.8)):
        for _ in range(5):
            study.add_trial(
                optuna.create_trial(params={KEY: columns}, distributions={KEY: size},
                                    value=value, intermediate_values={1: value})
            )  # fmt: skip
    for value, behind in ((0.5, False), (0.9, True)):
        study.enqueue_trial({KEY: 12}, user_attrs={"from": 0} if promoted else {})
        trial = study.ask()
        COLUMNS.dimension.suggest(trial)
        trial.report(value, 1)
        assert trial.should_prune() == (behind and not promoted)
        study.pruner = inner
        assert trial.should_prune()
        study.pruner = pruner
        study.tell(trial, state=TrialState.FAIL)
