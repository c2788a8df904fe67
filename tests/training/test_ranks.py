"""Two processes under torchrun compute what one process does on the same global batches."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recsys.training.ranks import Ranks

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from tests.training.test_loop import OPTIMIZERS, make_trainer
from recsys.data.encode import FeaturePipeline
from recsys.data.loader import Loader
from recsys.data.prepare import Prepared
from recsys.data.store import Store
from recsys.training.ranks import Ranks

torch.set_num_threads(1)
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
stores = {s: Store.open(folder / s) for s in ("train", "val", "test")}
data = Prepared(
    name="tiny", **stores, pipeline=FeaturePipeline.load(folder / "pipeline"), digest="",
    folder=folder,
)
ranks = Ranks.join(torch.device("cpu"))
results = {}
for name, keys in OPTIMIZERS.items():
    trainer, train, val, _ = make_trainer(
        data, model="autoint.AutoInt", arguments={"attention_dim": 8, "wide": True},
        optimizer=keys, max_steps=10, batch_size=250,
    )
    trainer.ranks = ranks
    shared = dict(seed=5, rank=ranks.rank, world_size=ranks.world_size)
    trainer.fit(
        Loader(data.train, 250, shuffle=True, **shared),
        Loader(data.val, 301, shuffle=False, **shared),
    )
    results[name] = {
        "losses": [loss for _, loss in trainer.curve.steps],
        "val": trainer.curve.evaluations[-1],
        "rows": trainer.curve.evaluations[-1]["step"],
    }
if ranks.is_first:
    out.write_text(json.dumps(results))
ranks.leave()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    """The same ten steps on one process and on two."""
    from tests.training.test_loop import make_data

    folder = tmp_path_factory.mktemp("ranks")
    prepared = make_data(folder)
    script = folder / "ten_steps.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    found = {}
    for count in (1, 2):
        out = folder / f"{count}.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={count}", str(script), str(prepared.folder), str(out)]
        done = subprocess.run(
            command, cwd=root, env=_environment(root), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[count] = json.loads(out.read_text())
    return found


def _environment(root: Path) -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}


@pytest.mark.parametrize("optimizer", ["adam", "lazy_adam", "rowwise_adagrad", "mba"])
def test_two_ranks_equal_one(runs: dict[int, dict], optimizer: str) -> None:
    one, two = runs[1][optimizer], runs[2][optimizer]
    assert len(one["losses"]) == 10
    torch.testing.assert_close(
        torch.tensor(two["losses"]), torch.tensor(one["losses"]), rtol=1e-5, atol=1e-6
    )
    for metric in ("auc", "logloss", "ece"):
        assert two["val"][metric] == pytest.approx(one["val"][metric], abs=1e-4)


def test_alone_everything_is_local() -> None:
    ranks = Ranks()
    value = torch.tensor([1.0, 2.0])
    assert torch.equal(ranks.sum(value), value)
    assert ranks.share("x") == "x"
    assert ranks.any(True, torch.device("cpu"))
    ranks.wait()
    ranks.leave()
