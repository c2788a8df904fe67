"""Search for the hyperparameters of any model, on validation rows or held-out pairs.

    python -m pipelines.tune ctr=autoint
    python -m pipelines.tune ctr=dcnv2 data=parquet data.path=clicks.parquet data.label=clicked
    python -m pipelines.tune ctr=autoint search.trials=200 search.minutes=60 search.patience=40
    python -m pipelines.tune ctr=autoint search.space.optimizer.lr.high=0.05 search.pruner=none
    python -m pipelines.tune ctr=autoint 'seed=range(3)' search.finalists=3 search.final_seeds=5
    python -m pipelines.tune ctr=autoint data=criteo data.source=<folder> search.features=rank
    python -m pipelines.tune ctr=autoint search.storage=postgresql://host/optuna
    python -m pipelines.tune cf=ease data=gowalla search.trials=20
    python -m pipelines.train experiment=<output_dir>/best.yaml

The same command goes on where it was stopped, by Ctrl-C or by a power cut, and may run several
times at once: trials are divided, a trial whose process is gone is taken over. A trial that
diverges, does not fit in memory or is refused by the model has failed, with its reason; the search
goes on.

What decides is trainer.monitor at its best validation, the mean over seeds where there are several;
for cf and towers, on the part val_fraction of each user's training pairs. Test rows are never read:
train the best configuration to see its test metrics.

Used most: search.trials search.minutes search.patience search.space.<key> search.features
(all of them, with what they mean: configs/search/_common.yaml)

Writes to output_dir
    best.yaml              the best configuration, an experiment for pipelines.train
    trials.csv             every trial: state, value, seconds, parameters, reason of a failure
    result.json            the same of the whole, for programs
    plots/                 history, importance, value by key; each with its numbers
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from recsys import config


def tune(cfg: DictConfig) -> dict[str, Any]:
    """Search; the checks that need nothing heavy come first.

    Returns:
        What `result.json` holds, and its `folder`.
    """
    family, _ = config.chosen_model(cfg)
    from pipelines.tuning_run import TuningRun

    return TuningRun(cfg, family).run()


if __name__ == "__main__":
    config.main(tune, "tune")
