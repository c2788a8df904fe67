"""Early stopping and decay."""

import pytest

from recsys.errors import ConfigError
from recsys.training.plateau import Plateau


def test_decay_and_stop_count_the_same_event() -> None:
    plateau = Plateau("auc", patience=2, decay=0.1, min_scale=1e-3)
    history = [0.70, 0.71, 0.71, 0.715, 0.70, 0.70]
    improved = [plateau.update({"auc": value}) for value in history]
    assert improved == [True, True, False, True, False, False]
    assert plateau.scale == pytest.approx(1e-3)
    assert plateau.should_stop
    assert plateau.best == 0.715


def test_lower_is_better_for_losses() -> None:
    plateau = Plateau("logloss", patience=1)
    assert plateau.update({"logloss": 0.5})
    assert plateau.update({"logloss": 0.4})
    assert not plateau.update({"logloss": 0.45})
    assert plateau.should_stop


def test_patience_zero_never_stops_and_the_scale_has_a_floor() -> None:
    plateau = Plateau("auc", patience=0, decay=0.1, min_scale=0.05)
    for _ in range(10):
        plateau.update({"auc": 0.5})
    assert not plateau.should_stop
    assert plateau.scale == 0.05


def test_auc_minus_logloss() -> None:
    plateau = Plateau("auc-logloss")
    assert plateau.value({"auc": 0.8, "logloss": 0.5}) == pytest.approx(0.3)


def test_state_round_trip() -> None:
    plateau = Plateau("auc")
    for value in (0.7, 0.6):
        plateau.update({"auc": value})
    other = Plateau("auc")
    other.load_state(plateau.state())
    assert other == plateau


def test_unknown_monitor_and_missing_metric() -> None:
    with pytest.raises(ConfigError, match="Did you mean logloss"):
        Plateau("log_loss")
    with pytest.raises(ConfigError, match=r"gauc was not computed.*data\.group"):
        Plateau("gauc").update({"auc": 0.5})


@pytest.mark.parametrize("monitor", ["recall@20", "ndcg_at_5", "map_at_100"])
def test_metrics_of_rankings_rise(monitor: str) -> None:
    plateau = Plateau(monitor, patience=1)
    assert plateau.update({monitor: 0.1})
    assert not plateau.update({monitor: 0.05})
    assert plateau.should_stop


@pytest.mark.parametrize("monitor", ["recall@", "recall@0", "recal@20", "coverage_at_20"])
def test_what_is_no_metric_of_a_ranking_is_an_error(monitor: str) -> None:
    with pytest.raises(ConfigError, match="is not a metric to stop on"):
        Plateau(monitor)
