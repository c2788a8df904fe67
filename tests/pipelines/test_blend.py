"""Blends of finished runs: weights from the validation part, the refitted models tested."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.blend import blend
from pipelines.evaluate import evaluate
from recsys import config
from recsys.data.datasets.interactions import interactions
from recsys.errors import ConfigError
from recsys.metrics.ranking import FullRanking
from recsys.models.blend import Blend
from recsys.models.saved_cf import SavedCF
from tests.pipelines.test_ranking_run import run

MEMBERS = {
    "turbocf": ("cf=turbocf",),
    "lightgcn": ("cf=lightgcn", "trainer.epochs=4", "trainer.eval_every=2", "optimizer.lr=0.05",
                 "trainer.batch_size=128", "cf.embed_dim=8"),
    "popularity": ("cf=popularity",),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(pair_table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, keys in MEMBERS.items():
        run(pair_table, folder / name, *keys)
    return {name: folder / name for name in MEMBERS}


def run_blend(folder: Path, members: list[Path], *keys: str) -> dict[str, Any]:
    overrides = [
        f"runs=[{','.join(map(str, members))}]", "tracking=none", "console=none", "ks=[5,10]",
        "monitor=recall_at_10", f"output_dir={folder}", *keys,
    ]  # fmt: skip
    return blend(config.compose("blend", overrides))


def test_weights_are_chosen_and_the_blend_is_a_model(
    runs: dict[str, Path],
    pair_table: Path,
    tmp_path: Path,
) -> None:
    members = list(runs.values())
    result = run_blend(tmp_path / "out", members)
    assert sum(result["weights"]) == pytest.approx(1)
    alone = [
        run_blend(tmp_path / name, members, f"weights={[int(n == name) for n in runs]}")
        for name in runs
    ]
    best = max(one["metrics"]["val"]["recall_at_10"] for one in alone)
    equal = run_blend(tmp_path / "equal", members, "weights=[1,1,1]")
    assert result["metrics"]["val"]["recall_at_10"] >= best - 1e-9
    assert (
        result["metrics"]["val"]["recall_at_10"] >= equal["metrics"]["val"]["recall_at_10"] - 1e-9
    )
    saved = SavedCF.load(tmp_path / "out" / "model")
    data = interactions(path=pair_table)
    assert data.test is not None
    again = FullRanking(data.test, data.train, ks=(5, 10)).of_scores(saved.model.scores)
    assert again.metrics["ndcg_at_5"] == result["metrics"]["test"]["ndcg_at_5"]
    assert saved.recommend([data.user_ids[0].as_py()], 3).num_rows == 3
    scored = evaluate(
        config.compose(
            "evaluate",
            [f"run={tmp_path / 'out'}", f"data.path={pair_table}", "tracking=none", "console=none",
             "ks=[5]", f"output_dir={tmp_path / 'scored'}"],
        )
    )  # fmt: skip
    assert scored["model"] == "blend"


def test_some_users_can_choose_the_weights(runs: dict[str, Path], tmp_path: Path) -> None:
    members = list(runs.values())
    some = run_blend(tmp_path / "some", members, "users=20")
    again = run_blend(tmp_path / "again", members, "users=20")
    assert some["weights"] == again["weights"]
    every = run_blend(tmp_path / "every", members)
    assert every["weights"] == run_blend(tmp_path / "most", members, "users=60")["weights"]
    counts = [one["counts"]["val"]["num_test_users"] for one in (some, every)]
    assert counts[0] == counts[1] > 20  # what is reported is of all of them


def test_a_member_alone_is_itself(runs: dict[str, Path], tmp_path: Path) -> None:
    """Before its refit on the validation part, after it on the test pairs."""
    for name, weights in (("turbocf", "[1,0]"), ("lightgcn", "[0,1]")):
        members = [runs["turbocf"], runs["lightgcn"]]
        result = run_blend(tmp_path / name, members, f"weights={weights}")
        kept = SavedCF.load(tmp_path / name / "model")
        assert isinstance(kept.model, Blend)
        assert len(kept.model.members) == 1
        own = json.loads((runs[name] / "result.json").read_text())["metrics"]
        for part in ("val", "test"):
            for metric in ("recall_at_10", "ndcg_at_5"):
                assert result["metrics"][part][metric] == pytest.approx(own[part][metric])


def test_a_blend_may_be_of_blends_only_through_its_members(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run_blend(tmp_path / "one", [runs["turbocf"], runs["popularity"]])
    with pytest.raises(ConfigError, match=r"is a blend.*Name its members"):
        run_blend(tmp_path / "two", [tmp_path / "one", runs["lightgcn"]])


def test_runs_that_do_not_belong_together(
    runs: dict[str, Path],
    pair_table: Path,
    tmp_path: Path,
) -> None:
    first = runs["turbocf"]
    with pytest.raises(ConfigError, match="needs two or more"):
        run_blend(tmp_path / "a", [first])
    for weights in ("[0,0]", "[2,-1]"):
        with pytest.raises(ConfigError, match="must be numbers of at least 0"):
            run_blend(tmp_path / "a", [first, first], f"weights={weights}")
    with pytest.raises(ConfigError, match="at least one length of lists"):
        run_blend(tmp_path / "a", [first, first], "ks=[]")
    with pytest.raises(ConfigError, match="give one for each"):
        run_blend(tmp_path / "a", [first, first], "weights=[1]")
    run(pair_table, tmp_path / "tested", "cf=turbocf", "selection=test")
    with pytest.raises(ConfigError, match="selection=test: nothing was held out"):
        run_blend(tmp_path / "a", [first, tmp_path / "tested"])
    run(pair_table, tmp_path / "fifth", "cf=turbocf", "val_fraction=0.2")
    with pytest.raises(ConfigError, match=r"held out 0\.2 of the pairs"):
        run_blend(tmp_path / "a", [first, tmp_path / "fifth"])
    run(pair_table, tmp_path / "other", "cf=turbocf", "data.split_seed=1")
    with pytest.raises(ConfigError, match="is of other pairs than"):
        run_blend(tmp_path / "a", [first, tmp_path / "other"])
    with pytest.raises(ConfigError, match="neither a folder nor a run"):
        run_blend(tmp_path / "a", [first, tmp_path / "missing"])
    with pytest.raises(ConfigError, match=r"accuracy_at_3"):
        run_blend(tmp_path / "a", [first, first], "monitor=accuracy_at_3")
