"""Train one model and leave a tracked run behind.

    python -m pipelines.train ctr=autoint
    python -m pipelines.train ctr=autoint data=parquet data.path=clicks.parquet data.label=clicked
    python -m pipelines.train experiment=frappe_dcnv2 data.source=<folder> seed=1
    python -m pipelines.train ctr=autoint embedding=multiplexed embedding.ratio=0.1
    python -m pipelines.train ctr=lightgbm data=criteo data.source=<folder>
    python -m pipelines.train cf=lightgcn data=gowalla data.source=<folder>
    python -m pipelines.train cf=ease data=interactions data.path=pairs.parquet
    python -m pipelines.train towers=twotower data=gowalla data.source=<folder>
    python -m pipelines.train ctr=autoint trainer.resume=auto
    python -m pipelines.train ctr=autoint init_from=<run id> optimizer.lr=3e-4 seed=1
    torchrun --nproc-per-node 2 -m pipelines.train ctr=autoint
    torchrun --nproc-per-node 2 -m pipelines.train ctr=fm optimizer=sgd embedding.sharding=auto

Used most: trainer.epochs trainer.batch_size optimizer.lr embedding.dim seed
"""

from __future__ import annotations

from omegaconf import DictConfig

from recsys import config


def train(cfg: DictConfig) -> dict[str, object]:
    """Run the configured training; the checks that need nothing heavy come first.

    Returns:
        What `result.json` holds, and its `folder`.
    """
    family, _ = config.chosen_model(cfg)
    from recsys.models.registry import import_target

    if family in ("cf", "towers"):
        from pipelines.ranking_run import RankingRun

        return RankingRun(cfg, family).run()
    # A class says itself how it learns; that of trees is imported without torch.
    if getattr(import_target(cfg[family]["_target_"]), "boosted", False):
        from pipelines.boosting_run import BoostingRun

        return BoostingRun(cfg, family).run()
    from pipelines.training_run import TrainingRun

    return TrainingRun(cfg, family).run()


if __name__ == "__main__":
    config.main(train, "train")
