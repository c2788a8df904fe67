"""What every model of two towers must do, over every configuration."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recsys import config
from recsys.data.interactions import Interactions
from recsys.data.pairs import Pairs
from recsys.data.side_tables import SideTables
from recsys.data.triple_sampler import TripleSampler
from recsys.errors import ConfigError, SchemaError
from recsys.models.registry import import_target
from recsys.models.saved import ModelSpec
from recsys.models.saved_cf import SavedCF, check_cf, make_cf, tables_for
from recsys.models.two_sided import TowersModel

MODELS = config.options("towers")
DATA_DICTATES = ("train", "tables")


def spec_of(stem: str, **keys: Any) -> ModelSpec:
    node = config.plain(config.compose("train", [f"towers={stem}"]).towers)
    target = node.pop("_target_")
    return ModelSpec("towers", target, node | keys)


def make_data(seed: int = 0) -> Interactions:
    """Every kind of column; item 11 is in no training pair, user 8 has no row of its own."""
    rng = np.random.default_rng(seed)
    likes = rng.random((9, 11)) < 0.4
    likes[np.arange(11) % 9, np.arange(11)] = True
    rows, columns = np.nonzero(likes)
    train = pl.DataFrame({"user": rows, "item": columns})
    users = pl.DataFrame(
        {
            "user": range(8),
            "age": [*rng.normal(40, 9, 7), None],
            "seen_history": [rng.integers(0, 4, n).tolist() for n in range(8)],
        },
        schema_overrides={"seen_history": pl.List(pl.Int64)},
    )
    items = pl.DataFrame(
        {
            "item": range(12),
            "brand": [f"b{k % 3}" for k in range(12)],
            "tags": [["t"] * (k % 3) for k in range(12)],
        },
        schema_overrides={"tags": pl.List(pl.String)},
    )
    test = pl.DataFrame({"user": [0], "item": [11]})
    return Interactions.of("small", train, test, users=users, items=items)


def made(stem: str, data: Interactions, seed: int = 0, **keys: Any) -> TowersModel:
    torch.manual_seed(seed)
    spec = spec_of(stem, **keys)
    model = make_cf(spec, data.train, tables_for(spec, data, data.train))
    assert isinstance(model, TowersModel)
    return model.eval()


DEEP: list[dict[str, Any]] = [{}, {"hidden_dims": [7, 5]}, {"history": True}]


@pytest.mark.parametrize("stem", MODELS)
def test_keys_of_the_configuration_are_those_of_the_constructor(stem: str) -> None:
    node = config.plain(config.compose("train", [f"towers={stem}"]).towers)
    signature = inspect.signature(import_target(node.pop("_target_"))).parameters
    own = {key: one for key, one in signature.items() if key not in DATA_DICTATES}
    assert set(node) == set(own)
    for key, parameter in own.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        default = parameter.default
        assert node[key] == (list(default) if isinstance(default, tuple) else default)


@torch.no_grad()
@pytest.mark.parametrize("keys", DEEP)
@pytest.mark.parametrize("stem", MODELS)
def test_vectors_are_those_of_the_rows_whoever_is_asked_for(
    stem: str, keys: dict[str, Any]
) -> None:
    model = made(stem, make_data(), **keys)
    users, items = model()
    assert users.shape == (9, model.embed_dim)
    assert items.shape == (12, model.embed_dim)
    assert users.dtype == items.dtype == torch.float32
    some = torch.tensor([8, 2, 2, 5])
    batch = model.user_side.batch(some)
    torch.testing.assert_close(model.encode_user(batch), users[some])
    some = torch.tensor([11])
    torch.testing.assert_close(model.encode_item(model.item_side.batch(some)), items[some])
    torch.testing.assert_close(model.scores(torch.arange(9)), users @ items.T)
    assert all(
        torch.equal(*one) for one in zip(made(stem, make_data(), **keys)(), model(), strict=True)
    )


@pytest.mark.parametrize("keys", DEEP)
@pytest.mark.parametrize("stem", MODELS)
def test_every_parameter_learns(stem: str, keys: dict[str, Any]) -> None:
    data = make_data()
    model = made(stem, data, **keys).train()
    losses = model.losses(next(iter(TripleSampler(data.train, model.sampling, len(data.train)))))
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    learnt = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    for name, parameter in learnt:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    left_out = {name for name, one in model.named_parameters() if not one.requires_grad}
    assert left_out == {"item_side.lookup.numeric"}  # items have no numbers


@pytest.mark.parametrize("stem", MODELS)
def test_hyperparameters_are_checked_without_data(stem: str) -> None:
    check_cf(spec_of(stem))
    with pytest.raises(ConfigError, match=r"towers\.no_such_key"):
        check_cf(spec_of(stem, no_such_key=1))


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("stem", MODELS)
def test_saved_and_loaded_they_encode_the_same_rows(
    stem: str, history: bool, tmp_path: Path
) -> None:
    data = make_data()
    keys = {"item_fields": ["item", "tags"], "hidden_dims": [6], "history": history}
    model = made(stem, data, **keys)
    SavedCF(model, data, spec_of(stem, **keys)).save(tmp_path / "model")
    saved = SavedCF.load(tmp_path / "model")
    found = saved.vectors()
    assert found is not None
    with torch.no_grad():
        users, items = model()
    assert torch.equal(found[0], users)
    assert torch.equal(found[1], items)
    # Raw rows, known ones and one that nobody has seen before.
    rows = pl.DataFrame({"item": [4, 11, 99], "tags": [["t"], ["t", "t"], ["t"]]})
    torch.testing.assert_close(saved.encode("item", rows)[:2], items[[4, 11]])
    assert saved.encode("item", rows)[2].isfinite().all()
    assert data.user_columns is not None
    raw = data.user_columns.with_columns(user=pl.Series(data.user_ids.to_pylist()))
    if history:  # of a new user too: any list of items that training knows
        lists = [data.train.of_user(user).tolist() for user in range(9)]
        raw = raw.with_columns(pl.Series("training_items", lists))
    torch.testing.assert_close(saved.encode("user", raw), users)
    with pytest.raises(SchemaError, match="tags"):
        saved.encode("item", rows.drop("tags"))
    with pytest.raises(ConfigError, match="Did you mean item"):
        saved.encode("itme", rows)
    assert saved.recommend([3], 4).num_rows == 4


def test_only_towers_encode_rows(tmp_path: Path) -> None:
    data = make_data()
    spec = ModelSpec("cf", "recsys.models.cf.bprmf.BPRMF", {"embed_dim": 2})
    saved = SavedCF(make_cf(spec, data.train), data, spec)
    with pytest.raises(ConfigError, match="by their pairs alone"):
        saved.encode("item", pl.DataFrame({"item": [1]}))


def test_tables_of_other_data_are_refused() -> None:
    data = make_data()
    other = Pairs.of(np.array([0]), np.array([0]), num_users=2, num_items=2)
    with pytest.raises(ValueError, match="9 users and 12 items, the pairs 2 and 2"):
        make_cf(spec_of("twotower"), other, SideTables.fit(data, data.train))


def test_a_row_to_learn_from_does_not_have_the_item_that_is_to_be_found() -> None:
    data = make_data()
    model = made("twotower", data, history=True)
    users, items = torch.from_numpy(data.train.users).long(), torch.from_numpy(data.train.items)
    found = model.user_rows(users, items.long(), 0.0).ragged["training_items"]
    whole = model.user_side.batch(users).ragged["training_items"]
    tokens = model.user_side.pipeline.tokens("training_items").to_pylist()
    for row, (user, own) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        read, every = (
            {tokens[code] for code in one.values[one.offsets[row] : one.offsets[row + 1]].tolist()}
            for one in (found, whole)
        )
        assert every == set(data.train.of_user(user).tolist())
        assert read == every - {own}


def test_a_history_is_read_in_place_of_the_id() -> None:
    data = make_data()
    names = {"age", "seen_history", "training_items"}
    model = made("twotower", data, history=True)
    assert set(model.user_side.pipeline.schema.names) == names
    model = made("twotower", data, history=True, user_fields=["age"])
    assert set(model.user_side.pipeline.schema.names) == {"age", "training_items"}
    with pytest.raises(ConfigError, match="give away the item"):
        made("twotower", data, history=True, user_fields=["user", "age"])


def test_ids_read_as_unseen_when_asked() -> None:
    data = make_data()
    side = made("twotower", data).item_side
    rows = torch.arange(11)
    codes = side.batch(rows).ids
    torch.manual_seed(0)
    hidden = side.batch(rows, 0.5, "item").ids
    changed = hidden[:, 0] != codes[:, 0]
    assert 0 < int(changed.sum()) < 11
    assert hidden[changed, 0].unique().tolist() == [2]
    assert torch.equal(hidden[:, 1:], codes[:, 1:])
    assert torch.equal(side.batch(rows).ids, codes)  # the table itself is as it was


@pytest.mark.parametrize(("key", "value"), [("init_std", 0.0), ("embed_dim", 0), ("ratio", 0.0)])
def test_vectors_that_cannot_be_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key.replace("embed_dim", r"embedding\.dim")):
        made("twotower", make_data(), layout="multiplexed", **{key: value})
