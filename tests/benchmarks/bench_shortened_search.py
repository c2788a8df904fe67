"""A search shortened by a ranking of the columns, beside the same search without one.

    python tests/benchmarks/bench_shortened_search.py planted --folder <scratch>
    python tests/benchmarks/bench_shortened_search.py diabetes130 --folder <scratch>
    python tests/benchmarks/bench_shortened_search.py figure --folder <scratch>

Three searches for DeepFM with small networks (cheap enough that a search over all columns has many
trials), with one sampler, one pruner, one space of hyperparameters:

    all        every column
    switches   every column on or off, each a choice of its own
    ranked     search.features=rank: how many columns of a ranking, shrunk first; the time of the
               ranking counts

The searches of a seed take turns, trial by trial, in one process on one thread, so that whatever
else the machine does meets all of them; their clock is the processor time of their own trials. A
search ends when its budget is used. `planted` is the generator of the shared bench with 60 columns,
of which 14 are planted, and 60,000 rows. `diabetes130` was chosen as the real set before any
result: of the sets at hand it has the most columns with enough rows to train on.

Told at the end: for every seed, the log-loss that each of the other two ends with, when it had
reached it, and when the ranked search had. `figure` draws the best so far against time.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))

SPACE = (
    "search.space.ctr.hidden_dims=[[32],[64,32],[128,64]]", "search.space.embedding.dim=[4,8,16]",
)  # fmt: skip
ARMS = ("all", "switches", "ranked")
COLORS = {"all": "#6B6B6B", "switches": "#56B4E9", "ranked": "#D55E00"}


def data_keys(name: str, folder: Path) -> list[str]:
    """Overrides of a set; the planted one is made once."""
    if name == "diabetes130":
        return ["data=diabetes130", f"data.source={SHARED / 'data' / 'diabetes130'}"]
    table = folder / "planted60"
    if not (table / "truth.json").exists():
        generator = [sys.executable, str(SHARED / "bench" / "outrank_data.py"), str(table)]
        keys = ["--rows", "60000", "--features", "60"]
        subprocess.run([*generator, *keys], check=True, stdout=subprocess.DEVNULL)
    return [
        "data=parquet", f"data.path={table / 'data.csv'}", "data.label=label",
        "data.val_fraction=0.2", "data.test_fraction=0.1",
    ]  # fmt: skip


def make_search(arm: str, keys: Sequence[str], seed: int) -> Any:
    """A search that is ready for its first trial, in memory."""
    import optuna
    from optuna.distributions import CategoricalDistribution

    from pipelines.trial_run import TrialData
    from pipelines.tuning_run import TuningRun
    from recsys import config
    from recsys.errors import ConfigError
    from recsys.tracking.console import Console
    from recsys.tracking.tracker import Tracker
    from recsys.tuning.ranked_columns import SameSizePruner
    from recsys.tuning.sampler import make_sampler
    from recsys.tuning.space import Dimension
    from recsys.tuning.study import make_pruner

    class Switches(TuningRun):
        """A choice for every column."""

        def dimensions(self) -> tuple[Dimension, ...]:
            both = CategoricalDistribution((True, False))
            names = self.whole.pipeline.schema.names
            return (*self.space, *(Dimension(f"keep.{name}", both) for name in names))

        def configuration(self, params: dict[str, Any], seed: int) -> Any:
            cfg = super().configuration(params, seed)
            if cfg.data.features is None:
                raise ConfigError("every column is off")
            return cfg

        def apply(self, cfg: Any, key: str, value: Any) -> None:
            if not key.startswith("keep."):
                super().apply(cfg, key, value)
            elif value:
                cfg.data.features = [*(cfg.data.features or []), key.removeprefix("keep.")]

    extra = ["search.features=rank"] if arm == "ranked" else []
    cfg = config.compose("tune", [*keys, *extra, f"seed={seed}", f"search.seed={seed}"])
    run: Any = (Switches if arm == "switches" else TuningRun)(cfg, "ctr")
    run.console, run.parent = Console("none"), Tracker("bench")
    run.data = TrialData(run.console)
    run.whole = run.data.of(run.base, "ctr")
    before = time.process_time()
    run.columns, _ = run.ranked_columns(run.whole)
    run.clock = time.process_time() - before
    run.study = optuna.create_study(
        direction="minimize",
        sampler=make_sampler("tpe", seed, run.options.startup_trials),
        pruner=make_pruner(run.options, run.trainer_options.epochs),
    )
    if run.columns is not None:
        run.study.pruner = SameSizePruner(run.study.pruner)
    run.folder = Path("unused")
    return run


def step(run: Any) -> dict[str, Any]:
    """One trial."""
    import dataclasses

    from recsys.tuning import ranked_columns as ranked
    from recsys.tuning.study import num_taken, search

    def plan(study: Any) -> None:
        if run.columns is not None:
            ranked.Halving(run.columns)(study)

    ended: list[Any] = []
    before = time.process_time()
    one_more = dataclasses.replace(run.options, trials=num_taken(run.study) + 1)
    search(run.study, run.objective, one_more, ended.append, plan)
    run.clock += time.process_time() - before
    trial = ended[0]
    return {
        "trial": trial.number, "seconds": run.clock, "state": trial.state.name,
        "value": trial.value if trial.state.name == "COMPLETE" else None,
        "columns": columns_of(run, trial.params), "reason": trial.user_attrs.get("reason", ""),
    }  # fmt: skip


def columns_of(run: Any, params: dict[str, Any]) -> int:
    switches = [value for key, value in params.items() if key.startswith("keep.")]
    if switches:
        return sum(switches)
    return int(params.get("data.top", len(run.whole.pipeline.schema.names)))


def measure(name: str, folder: Path, seeds: Sequence[int], budget: float, model: str) -> None:
    """Every arm on every seed; rows are appended as they come."""
    os.chdir(folder)
    import optuna
    import torch

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    keys = [
        f"ctr={model}", *data_keys(name, folder), *SPACE, "trainer.monitor=logloss",
        "trainer.epochs=6", "trainer.threads=1", "tracking=none", "console=none",
    ]  # fmt: skip
    step(make_search("all", [*keys, "trainer.max_steps=2"], 0))  # imports, kernels, prepared data
    with (folder / f"{name}.csv").open("a", newline="") as file:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(["arm", "seed", "trial", "seconds", "state", "value", "columns"])
        for seed in seeds:
            runs = {arm: make_search(arm, keys, seed) for arm in ARMS}
            while True:
                arm = min(runs, key=lambda one: runs[one].clock)
                if runs[arm].clock >= budget:
                    break
                row = step(runs[arm])
                told = [
                    arm,
                    seed,
                    *(row[k] for k in ("trial", "seconds", "state", "value", "columns")),
                ]
                writer.writerow(told)
                file.flush()
                print(*told, row["reason"], flush=True)


def best_curve(rows: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and best value so far of one search."""
    done = [(float(r["seconds"]), float(r["value"])) for r in rows if r["value"]]
    seconds, values = np.array([d[0] for d in done]), np.array([d[1] for d in done])
    return seconds, np.minimum.accumulate(values)


def reached(seconds: np.ndarray, best: np.ndarray, target: float) -> float:
    """When a search had the target, NaN if never."""
    at = np.flatnonzero(best <= target)
    return float(seconds[at[0]]) if len(at) else float("nan")


def figure(folder: Path, names: Sequence[str]) -> None:
    """Best so far against seconds, median and range over seeds; and who reached what when."""
    from matplotlib.ticker import LogLocator, NullFormatter

    from recsys.tracking.figures import SHORT, new_figure, save_figure

    found, axes = new_figure(
        "Shortened search: best validation log-loss, median and range over seeds",
        columns=len(names), size=(5.2 * len(names), 4.2),
    )  # fmt: skip
    table: dict[str, list[Any]] = {
        k: [] for k in ("set", "arm", "seconds", "low", "median", "high")
    }
    for axis, name in zip(axes, names, strict=True):
        with (folder / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        seeds = sorted({row["seed"] for row in rows})
        curves = {
            arm: [best_curve([r for r in rows if (r["arm"], r["seed"]) == (arm, s)]) for s in seeds]
            for arm in ARMS
        }
        end = min(c[0][-1] for of in curves.values() for c in of)
        grid = np.geomspace(max(1.0, min(c[0][0] for of in curves.values() for c in of)), end, 200)
        for arm, of in curves.items():
            values = np.array([[value_at(c, t) for t in grid] for c in of])
            some = ~np.isnan(values).any(axis=0)
            low, mid, high = (f(values[:, some], axis=0) for f in (np.min, np.median, np.max))
            axis.fill_between(grid[some], low, high, color=COLORS[arm], alpha=0.18, linewidth=0)
            axis.plot(grid[some], mid, color=COLORS[arm], linewidth=1.8, label=arm)
            for at, *three in zip(grid[some], low, mid, high, strict=True):
                for key, cell in zip(table, (name, arm, at, *three), strict=True):
                    table[key].append(cell)
        axis.set(xscale="log", xlabel="seconds of processor time", title=name)
        bottom = min(c[1][-1] for of in curves.values() for c in of)
        finals = [c[1][-1] for of in curves.values() for c in of]
        firsts = np.median([c[1][0] for of in curves.values() for c in of])
        axis.set_ylim(bottom - 0.05 * (firsts - bottom), max(firsts, max(finals)))
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(SHORT)
        axis.xaxis.set_minor_formatter(NullFormatter())
        for s, seed in enumerate(seeds):
            of = {arm: curves[arm][s] for arm in ARMS}
            print(name, "seed", seed, "ends with", {k: f"{c[1][-1]:.5f}" for k, c in of.items()})
            for other in ("all", "switches"):
                target = of[other][1][-1]
                theirs, ours = reached(*of[other], target), reached(*of["ranked"], target)
                print(f"    {other} has {target:.5f} at {theirs:.1f} s, ranked at {ours:.1f} s: "
                      f"{ours / theirs:.2f} of the time")  # fmt: skip
    axes[0].set_ylabel("validation log-loss")
    axes[0].legend(frameon=False)
    save_figure(found, table, folder / "shortened_search")


def value_at(curve: tuple[np.ndarray, np.ndarray], second: float) -> float:
    at = np.searchsorted(curve[0], second, side="right") - 1
    return float(curve[1][at]) if at >= 0 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("planted", "diabetes130", "figure"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=50.0, help="seconds of each search")
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--sets", nargs="+", default=["planted", "diabetes130"])
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if given.what == "figure":
        figure(folder, given.sets)
    else:
        measure(given.what, folder, given.seeds, given.budget, given.model)


if __name__ == "__main__":
    main()
