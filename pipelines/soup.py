"""Average the weights of runs that began with the same weights: one model of the ordinary kind.

    python -m pipelines.train ctr=dcnv2 data=frappe data.source=<folder>
    python -m pipelines.train ctr=dcnv2 data=frappe data.source=<folder> init_from=<first> seed=1
    python -m pipelines.train ctr=dcnv2 data=frappe data.source=<folder> init_from=<first> seed=2
    python -m pipelines.soup 'runs=[<second>,<third>]'
    python -m pipelines.soup 'runs=[<second>,<third>]' keep=uniform monitor=logloss

The uniform soup is the mean of all. The greedy soup begins with the run that is best on validation
and takes another one in, best first, where the mean with it is better on validation still; it is
never worse there than the best run, and may be that run alone. Test rows choose nothing. Batch
norm's statistics are taken anew, on training rows. Runs of other columns, codes, models or first
weights are refused: their mean would be of unlike things.

Writes to output_dir
    model/                 evaluate, explain, export_embeddings, serve and init_from take it
    plots/soup.png, .csv   every run and both soups, on validation and test
    result.json            the same, which were kept, and the metrics
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from recsys import config


def soup(cfg: DictConfig) -> dict[str, Any]:
    """Average the configured runs.

    Returns:
        What `result.json` holds, and its `folder`.
    """
    from pipelines.soup_run import SoupRun

    return SoupRun(cfg).run()


if __name__ == "__main__":
    config.main(soup, "soup")
