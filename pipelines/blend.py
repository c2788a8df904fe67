"""Blend finished runs of models of users and items into one.

    python -m pipelines.blend 'runs=[<run id>,<run id>]'
    python -m pipelines.blend 'runs=[outputs/gowalla/bspm/<time>,outputs/gowalla/ultragcn/<time>]'
    python -m pipelines.blend 'runs=[<run id>,<run id>]' 'weights=[2,1]'

Scores are standardised over the items of each user, weighted and added. The weights are those that
are best on the validation part which all the runs held out: members are taken as they were before
their refit, closed forms by computing them again. The blend then consists of the refitted models
and is tested once. It is saved as any other model is.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from recsys import config


def blend(cfg: DictConfig) -> dict[str, Any]:
    """Blend the configured runs.

    Returns:
        What `result.json` holds, and its `folder`.
    """
    from pipelines.blend_run import BlendRun

    return BlendRun(cfg).run()


if __name__ == "__main__":
    config.main(blend, "blend")
