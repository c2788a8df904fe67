"""Spaces: what is written is what is drawn, and every mistake is named."""

import optuna
import pytest

from recsys.errors import ConfigError
from recsys.tuning.space import check_space, parse_space

VALUES = {
    "seed": 0,
    "optimizer": {"lr": 0.001, "name": "adam"},
    "ctr": {"_target_": "recsys.models.ctr.fm.FM", "hidden_dims": [], "dropout": 0.0},
    "data": {"min_count": 1, "split_seed": 0, "fields": {}},
    "trainer": {"monitor": "auc"},
}


def drawn(raw: dict, draws: int = 60) -> dict[str, list]:
    """Values of every key over some trials."""
    space = parse_space(raw)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found: dict[str, list] = {one.key: [] for one in space}
    for _ in range(draws):
        trial = study.ask()
        for one in space:
            found[one.key].append(one.suggest(trial))
    return found


def test_every_kind_of_entry_is_drawn_as_it_is_written() -> None:
    found = drawn({
        "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "ctr.num_layers": {"low": 1, "high": 3},
        "ctr.dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
        "ctr.num_heads": [1, 2],
        "ctr.hidden_dims": {"choices": [[], [400, 400]]},
        "ctr.activation": ["relu", None],
    })  # fmt: skip
    assert all(1e-4 <= x <= 1e-2 for x in found["optimizer.lr"])
    assert sum(x < 1e-3 for x in found["optimizer.lr"]) > 20  # half of them, on a log scale
    assert set(found["ctr.num_layers"]) == {1, 2, 3}
    assert set(found["ctr.dropout"]) == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}  # not 3 * 0.1
    assert set(found["ctr.num_heads"]) == {1, 2}
    assert [] in found["ctr.hidden_dims"]
    assert [400, 400] in found["ctr.hidden_dims"]
    assert set(found["ctr.activation"]) == {"relu", None}


def test_dotted_and_nested_keys_are_one_and_the_later_wins() -> None:
    raw = {
        "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "ctr.dropout": [0.0, 0.1],
        "optimizer": {"lr": {"high": 0.1}},
        "ctr": {"dropout": None},
    }
    (one,) = parse_space(raw)
    assert one.key == "optimizer.lr"
    assert (one.distribution.low, one.distribution.high, one.distribution.log) == (1e-4, 0.1, True)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "is no range"),
        ({"low": 1}, "high=None must be a number"),
        ({"low": "1e-4", "high": 1.0}, "1.0e-4 a number"),
        ({"low": 2, "high": 1}, "low=2 must be below high=1"),
        ({"low": 0.0, "high": 1.0, "log": True}, "must be above 0 where log=true"),
        ({"low": 1, "high": 4, "stepp": 1}, "Did you mean step?"),
        ({"low": 1, "high": 4, "step": 9}, "step=9 must be above 0, at most"),
        ({"low": 1.0, "high": 4.0, "step": 1.0, "log": True}, "without log"),
        ({"choices": []}, "at least one value"),
        ([1, 1], "names a value twice"),
        ({"choices": [1], "low": 2}, "give one of the two"),
        ({"low": float("nan"), "high": 1.0}, "must be below"),
    ],
)
def test_what_is_no_range_is_refused(entry: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_space({"ctr.dropout": entry})
    assert message in str(error.value)
    assert "search.space.ctr.dropout" in str(error.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optimizer.lrr", "Did you mean optimizer.lr?"),
        ("mtl.dropout", "mtl.dropout is not an option"),
        ("optimizer", "is a group of keys; name one of optimizer.lr"),
        ("seed", "seed=range(3)"),
        ("trainer.monitor", "compared by"),
        ("data.split_seed", "on the same rows"),
        ("ctr._target_", "choose one model"),
    ],
)
def test_keys_that_cannot_be_searched_are_refused(key: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_space(parse_space({key: [1, 2]}), VALUES)
    assert message in str(error.value)


def test_optional_keys_are_left_out_where_there_are_none() -> None:
    space = parse_space({
        "mtl.dropout": {"low": 0.0, "high": 0.5, "optional": True},
        "ctr.dropout": {"low": 0.0, "high": 0.5, "optional": True},
        "data.min_count": [1, 5],
    })  # fmt: skip
    assert [one.key for one in check_space(space, VALUES)] == ["ctr.dropout", "data.min_count"]
