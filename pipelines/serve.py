"""Serve a finished run over HTTP: probabilities of raw rows, or the best items of users.

    python -m pipelines.serve run=<run id>
    python -m pipelines.serve run=outputs/clicks/autoint/<time> port=0
    python -m pipelines.serve run=models:/clicks@champion
    python -m pipelines.serve run=<run id of a cf model> index=<index> fallback=popularity

    curl localhost:8000/score -H 'Content-Type: application/json' -d '{"rows": [{"age": 7, ...}]}'
    curl localhost:8000/recommend -H 'Content-Type: application/json' -d '{"users": [7], "k": 5}'

POST /score of a ctr or mtl model answers with the probabilities that pipelines.evaluate writes, to
the bit; POST /recommend of a cf or towers model with the lists of pipelines.recommend. /docs shows
the columns, /health the run, /metrics counters for Prometheus. When run comes to mean another model
(a folder that was trained into again, an alias that was moved), that one is loaded beside the old
one and takes over; SIGHUP does so at once, SIGTERM ends after what was begun. There is no
authentication: put a proxy in front before others can reach it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from recsys import config
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.serving.served import Served

FALLBACKS = ("popularity",)


def serve(cfg: DictConfig) -> None:
    """Load the run, and serve it until a signal ends it."""
    if cfg.run is None:
        raise ConfigError("run is missing. Example: python -m pipelines.serve run=<run id>")
    config.at_least("port", cfg.port, 0)
    if cfg.threads is not None:
        config.at_least("threads", cfg.threads, 1)
    every = cfg.reload_every
    if isinstance(every, bool) or not isinstance(every, int | float) or every < 0:
        raise ConfigError(f"reload_every={every}; it must be a number of seconds, 0 for never.")
    if cfg.fallback is not None and cfg.fallback not in FALLBACKS:
        raise ConfigError(f"fallback={cfg.fallback}; allowed: {', '.join(FALLBACKS)}, or null.")

    from recsys.serving.limits import Limits

    limits = config.build_options(Limits, cfg.limits, "limits")

    import torch

    from recsys.serving.app import create_app
    from recsys.serving.holder import Holder
    from recsys.serving.origin import RunOrigin
    from recsys.serving.server import listen, run_server
    from recsys.tracking.console import Console
    from recsys.tracking.find import find_model
    from recsys.tracking.registered import resolve_alias

    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    uri = cfg.tracking.get("uri")
    with Console(cfg.console) as console:
        bound = listen(str(cfg.host), cfg.port)  # before the model, which takes longer to load
        with bound:
            origin = RunOrigin(
                str(cfg.run),
                lambda run: resolve_alias(run, uri),
                lambda run: find_model(run, uri),
                lambda folder, run: load(cfg, folder, run),
            )
            holder = Holder(origin, lambda result, text: console.note(text))
            served = holder.served
            host, port = bound.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            console.banner(f"{served.name} of run {served.run} on {url}{served.route}")
            if served.facts().get("exact") is False:
                console.note(
                    "note: on this machine the last bit of a score depends on the rows scored with "
                    f"it, by up to {served.facts()['largest_difference_of_logits']:.1g} of a logit"
                )

            def ready() -> None:
                console.note(f"ready: {url}/docs shows the columns. Try\n{example(served, url)}")

            app = create_app(holder, limits, reload_seconds=float(every))
            run_server(app, holder, bound, limits, ready)
        console.note("ended: what was begun is answered")


def load(cfg: DictConfig, folder: Path, run: str) -> Served:
    """A model by what kind it is."""
    from recsys.models import saved_cf
    from recsys.models.saved import SavedModel
    from recsys.serving.scoring import Scoring

    if not saved_cf.is_cf(folder):
        for key in ("index", "fallback"):
            if cfg[key] is not None:
                raise ConfigError(
                    f"{key}={cfg[key]} is for models of users and items, but run={cfg.run} scores "
                    f"rows. Leave {key} out."
                )
        return Scoring(SavedModel.load(folder), run, cfg.limits.max_rows)

    from recsys.retrieval.candidates import Candidates
    from recsys.retrieval.index_folder import load_index
    from recsys.serving.listing import Listing

    index = None if cfg.index is None else load_index(Path(str(cfg.index)))
    return Listing(
        Candidates(saved_cf.SavedCF.load(folder), index, known=bool(cfg.known)),
        run,
        cfg.limits.max_rows,
        cfg.limits.max_k,
        popular=cfg.fallback == "popularity",
    )


def example(served: Served, url: str) -> str:
    """A command for a terminal."""
    import json

    body = shlex.quote(json.dumps(served.example()))
    return f"curl {url}{served.route} -H 'Content-Type: application/json' -d {body}"


if __name__ == "__main__":
    config.main(serve, "serve")
