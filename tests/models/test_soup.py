"""Means of weights, the greedy order, and what must not be averaged."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from recsys.data.encode import FeaturePipeline
from recsys.data.numeric import Scale
from recsys.errors import CheckpointError, ConfigError
from recsys.models.saved import ModelSpec, SavedModel
from recsys.models.saved_cf import FORMAT as CF_FORMAT
from recsys.models.soup import Ingredient, Mean, check_alike, greedy_soup, uniform_soup
from tests.embedding.test_lookup import make_schema
from tests.models.test_recommender import build


def named(value: float, count: int = 7) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([value, -value]), "n": torch.tensor(count)}


def test_a_mean_is_taken_in_float64_and_kept_in_the_type_it_was() -> None:
    """2**25 + 1 has no float32: summed there, the ones would be lost."""
    values = [2.0**25, 1.0, 1.0, 1.0, 1.0, 2.0**25]
    mean = uniform_soup([lambda v=v: named(v) for v in values])
    assert mean["w"].dtype == torch.float32
    assert mean["w"][0].item() == torch.tensor(sum(values) / 6, dtype=torch.float32).item()
    assert mean["n"].item() == 7
    assert mean["n"].dtype == torch.int64


def test_a_candidate_is_the_mean_with_one_more() -> None:
    mean = Mean()
    mean.add(named(1.0))
    mean.add(named(2.0))
    assert mean.plus(named(6.0))["w"].tolist() == [3.0, -3.0]
    assert mean.weights()["w"].tolist() == [1.5, -1.5]
    first = named(1.0)
    alone = Mean()
    alone.add(first)
    alone.add(named(3.0))
    assert first["w"].tolist() == [1.0, -1.0]  # what came in is left alone


def test_greedy_against_a_loop() -> None:
    """Every order of four ingredients, and a score that has its best at 2."""
    for values in itertools.permutations([0.0, 1.5, 3.0, 9.0]):

        def score(w: dict[str, torch.Tensor]) -> float:
            return -abs(w["w"][0].item() - 2)

        alone = [-abs(v - 2) for v in values]
        soup = greedy_soup([lambda v=v: named(v) for v in values], alone, score)
        kept = [1.5]
        for value in (3.0, 0.0, 9.0):  # by score
            if -abs(sum([*kept, value]) / (len(kept) + 1) - 2) > -abs(sum(kept) / len(kept) - 2):
                kept.append(value)
        assert [values[i] for i in soup.kept] == kept == [1.5, 3.0]
        assert soup.weights["w"][0].item() == 2.25
        assert list(soup.scores) == [-0.5, -0.25]


def test_equal_is_not_better() -> None:
    soup = greedy_soup([lambda: named(1.0)] * 3, [0.5, 0.5, 0.5], lambda _: 0.5)
    assert soup.kept == (0,)
    assert soup.weights["w"].tolist() == [1.0, -1.0]


def save(
    folder: Path,
    model: str = "deepfm.DeepFM",
    facts: dict[str, object] | None = None,
    numeric: str = "vector",
    mean: float = 0.0,
    **arguments: object,
) -> Ingredient:
    made = build(model, numeric=numeric)
    pipeline = FeaturePipeline(make_schema(), {}, {"price": Scale("standard", mean=mean)})  # type: ignore[arg-type]
    spec = ModelSpec("ctr", f"recsys.models.ctr.{model}", arguments)
    SavedModel(made, pipeline, spec, facts or {"initial_digest": "aa"}).save(folder)
    return Ingredient.open(folder.name, folder)


def test_runs_that_began_alike_may_differ_in_dropout(tmp_path: Path) -> None:
    first = save(tmp_path / "one", dropout=0.1)
    check_alike([first, save(tmp_path / "two", dropout=0.5), save(tmp_path / "three")])
    made = build("deepfm.DeepFM")
    assert first.weights().keys() == made.tensors().keys()


def test_what_must_not_be_averaged_is_refused_with_the_reason(tmp_path: Path) -> None:
    first = save(tmp_path / "first")
    others = {
        "different models, DeepFM and FM": save(tmp_path / "a", "fm.FM"),
        r"built differently \(hidden_dims=None and \[8\]\)": save(tmp_path / "b", hidden_dims=[8]),
        r"built differently \(embedding.numeric=vector and dense\)": save(
            tmp_path / "c", numeric="dense"
        ),
        "give values different codes": save(tmp_path / "d", mean=2.0),
        "e does not say with which weights it began": save(tmp_path / "e", facts={"seed": 1}),
        r"began with different weights \(digests aa and bb\).*init_from=<run id>": save(
            tmp_path / "f", facts={"initial_digest": "bb"}
        ),
    }
    for message, other in others.items():
        with pytest.raises(ConfigError, match=message):
            check_alike([first, other])
        with pytest.raises(ConfigError):
            check_alike([other, first])
    for alone in ([], [first], [first, first]):
        with pytest.raises(ConfigError, match="needs two or more different runs"):
            check_alike(alone)


def test_kinds_that_have_no_mean_are_refused(tmp_path: Path) -> None:
    def card(name: str, **keys: object) -> Path:
        save(tmp_path / name)
        path = tmp_path / name / "model.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))
        return tmp_path / name

    with pytest.raises(ConfigError, match=r"users and items.*pipelines\.blend"):
        Ingredient.open("x", card("cf", **CF_FORMAT))
    trees = {"family": "ctr", "target": "recsys.models.ctr.lightgbm.LightGBM", "arguments": {}}
    with pytest.raises(ConfigError, match="made of trees"):
        Ingredient.open("x", card("trees", model=trees))
    with pytest.raises(ConfigError, match="a copy with int8 tables"):
        Ingredient.open("x", card("compact", tables="int8"))
    from safetensors.torch import load_file, save_file

    gated = card("gated")
    weights = load_file(gated / "weights.safetensors")
    save_file(
        weights | {"tables.user.kept": torch.ones(9, dtype=torch.bool)},
        gated / "weights.safetensors",
    )
    with pytest.raises(ConfigError, match="trained with gate=optfs"):
        Ingredient.open("x", gated)
    broken = card("broken")
    (broken / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="is not a saved model"):
        Ingredient.open("x", broken)
