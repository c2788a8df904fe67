"""Records to compare, made by hand."""

from typing import Any

from recsys.comparison.records import RunRecord


def record(model: str, seed: int | None, auc: float, **more: Any) -> RunRecord:
    """A run of `model` with test AUC `auc`; `lr` and other fields by keyword."""
    params = {"optimizer.lr": str(more.pop("lr", 0.001)), **more.pop("params", {})}
    metrics = {"test/auc": auc, "test/logloss": 1 - auc, "fit_seconds": 10.0 + (seed or 0)}
    fields: dict[str, Any] = {
        "run_id": f"{model}{params['optimizer.lr']}s{seed}xxxxxxxx",
        "name": f"{model}-{seed}",
        "family": "ctr",
        "data": "clicks",
        "digest": "d1",
        "params": params,
        "metrics": metrics | more.pop("metrics", {}),
    }
    return RunRecord(model=model, seed=seed, **(fields | more))


def clicks() -> list[RunRecord]:
    """LR with three seeds; DeepFM with three at one learning rate and one at another."""
    return [
        *(record("lr", seed, value) for seed, value in enumerate((0.70, 0.71, 0.72))),
        *(record("deepfm", seed, value) for seed, value in enumerate((0.80, 0.82, 0.81))),
        record("deepfm", 0, 0.79, lr=0.01),
    ]
