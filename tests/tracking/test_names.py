"""Names that MLflow accepts, checked against MLflow's own rules."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from recsys.tracking.names import (
    check_metric_name,
    experiment_name,
    flatten,
    metric_name,
    run_name,
)


@given(st.text(max_size=12))
def test_whatever_we_accept_mlflow_accepts(name):
    try:
        check_metric_name(name)
    except ValueError:
        return
    _validate_metric_name(name)


@pytest.mark.parametrize(
    "name", [".auc", "val/auc", "test/task 1/ndcg_at_10", "a-b.c:d", "system/cpu"]
)
def test_good_names(name):
    check_metric_name(name)
    _validate_metric_name(name)


@pytest.mark.parametrize(
    "name", ["ndcg@10", "auc(%)", "", "/auc", "val//auc", "val/", "../auc", "val/./auc"]
)
def test_bad_names(name):
    with pytest.raises(MlflowException):
        _validate_metric_name(name)
    with pytest.raises(ValueError, match=r"metric name .* is not allowed"):
        check_metric_name(name)


def test_the_error_shows_an_allowed_name():
    with pytest.raises(ValueError, match=r"\(not '%@'\), as in 'val/ndcg_10_'"):
        check_metric_name("val/ndcg@10%")


@given(st.text(min_size=1, max_size=12))
def test_a_label_of_any_name_makes_a_metric(label):
    check_metric_name(metric_name("test", label, "auc"))


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(), max_size=4))
def test_any_key_makes_a_parameter(params):
    for key, value in flatten({"root": params}).items():
        _validate_param_name(key)
        assert len(value) <= 500


def test_flatten():
    nested = {
        "ctr": {"num_heads": 2, "hidden_dims": [400, [1, 2]], "nothing": {}},
        "name": "frappe",
        "text": "a, b",
        "rate": 1e-3,
        "flag": True,
        "none": None,
        "data": {"kinds": {"price ($)": "numeric"}},
        "tuple": (1, "x"),
    }
    assert flatten(nested) == {
        "ctr.num_heads": "2",
        "ctr.hidden_dims": "[400, [1, 2]]",
        "name": "frappe",
        "text": "a, b",
        "rate": "0.001",
        "flag": "True",
        "none": "None",
        "data.kinds.price ___": "numeric",
        "tuple": "[1, x]",
    }


def test_long_values_and_keys_are_cut():
    flat = flatten({"k" * 300: "v" * 501, "exact": "v" * 500})
    assert flat["exact"] == "v" * 500
    assert len(flat["k" * 250]) == 500
    assert flat["k" * 250].endswith("v... (501 characters)")


def test_run_and_experiment_names():
    assert experiment_name("my data!") == "recsys/my data_"
    assert run_name("lr", datetime(2026, 12, 1, 0, 0, 59)) == "lr-20261201-000059"
