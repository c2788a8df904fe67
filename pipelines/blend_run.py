"""One blend from configuration to result: members opened, weighed, added up, tested once."""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from pipelines.ranking_run import SPLIT_SEED, STAGES, list_lengths
from pipelines.run_folder import RunFolder
from pipelines.tracked_run import OUTPUTS, TrackedRun
from pipelines.training_report import write_ranking
from recsys import config
from recsys.data.interactions import Interactions
from recsys.data.pairs import Pairs
from recsys.errors import ConfigError
from recsys.metrics.ranking import FullRanking, Ranking
from recsys.models.blend import Blend, Vectors, check_weights
from recsys.models.blend_weights import Candidates, best_weights
from recsys.models.collaborative import CFModel, ClosedForm, EmbeddingModel
from recsys.models.saved import ModelSpec
from recsys.models.saved_cf import SavedCF, is_cf, make_cf, tables_for
from recsys.tracking.console import Console
from recsys.tracking.find import find_model
from recsys.tracking.tracker import Tracker
from recsys.training.checkpoint import Checkpoints
from recsys.training.plateau import Plateau
from recsys.training.ranks import Ranks


@dataclasses.dataclass(frozen=True)
class Member:
    """A finished run."""

    name: str
    folder: Path
    cfg: DictConfig
    saved: SavedCF

    @classmethod
    def open(cls, run: str, uri: str | None) -> Member:
        """Find a run and load its model.

        Raises:
            ConfigError: it is no run of a cf model, or its folder is not on this disk.
        """
        found = find_model(run, uri)
        if not is_cf(found):
            raise ConfigError(f"run={run} is not of a model of users and items.")
        if not (found.parent / "config.yaml").is_file():
            raise ConfigError(
                f"run={run}: its output folder is not on this disk (there is no "
                f"{found.parent / 'config.yaml'}). Blend where the runs were made."
            )
        cfg = OmegaConf.load(found.parent / "config.yaml")
        assert isinstance(cfg, DictConfig)
        saved = SavedCF.load(found)
        if isinstance(saved.model, Blend):
            raise ConfigError(f"run={run} is a blend. Name its members instead: {cfg.runs}.")
        return cls(saved.spec.stem, found.parent, cfg, saved)

    def before_refit(self, left: Pairs) -> CFModel:
        """The model as its validation part saw it."""
        spec = self.saved.spec
        model = make_cf(spec, left, tables_for(spec, self.saved.data, left))
        if isinstance(model, ClosedForm):
            model.fit(left)
        else:
            checkpoints = Checkpoints(self.folder / STAGES[0])
            model.load_state_dict(checkpoints.load(checkpoints.best_step()).tensors["weights"])
        return frozen(model)

    def after_refit(self) -> tuple[CFModel, dict[str, Any]]:
        """The model that the run kept, and how to build it."""
        model, spec = frozen(self.saved.model), self.saved.spec
        if isinstance(model, Vectors):
            return model, {
                "target": f"{Vectors.__module__}.Vectors",
                "arguments": {"embed_dim": model.users.shape[1]},
            }
        return model, {"target": spec.target, "arguments": dict(spec.arguments)}


class BlendRun(TrackedRun):
    """Everything that one `python -m pipelines.blend` does.

    Args:
        cfg: Composed configuration.

    Raises:
        ConfigError: a value makes no sense, or the runs do not belong together.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg, ModelSpec("cf", f"{Blend.__module__}.Blend", {}), 0)
        self.ranks = Ranks()
        runs = [str(run) for run in config.plain(cfg.runs)]
        if len(runs) < 2:
            raise ConfigError(
                f"runs={runs}; a blend needs two or more. Example: "
                "python -m pipelines.blend 'runs=[<run id>,<run id>]'"
            )
        self.ks = list_lengths(cfg)
        self.monitor = str(cfg.monitor)
        Plateau(self.monitor, 0, 0.0, 1.0)  # raises for a metric that does not exist
        self.monitored_k = int(self.monitor.rpartition("_at_")[2])
        self.candidates = config.at_least("candidates", cfg.candidates, self.monitored_k)
        self.users = config.at_least("users", cfg.users, 1)
        self.members = [Member.open(run, cfg.tracking.get("uri")) for run in runs]
        self.weights = None if cfg.weights is None else list(map(float, config.plain(cfg.weights)))
        if self.weights is not None and len(self.weights) != len(runs):
            raise ConfigError(
                f"weights={self.weights} for {len(runs)} runs; give one for each, or null."
            )
        if self.weights is not None:
            check_weights(self.weights)
        check_alike(self.members)

    def run(self) -> dict[str, Any]:
        """Weigh, test, save, report."""
        with Console(self.cfg.console) as self.console:
            first = self.members[0]
            data = config.build_interactions(first.cfg.data)
            names = " + ".join(member.name for member in self.members)
            self.console.banner(f"blend of {names} on {data.name}")
            self.console.note(data.counts())
            digest = data.digest()
            if digest != first.saved.facts["data_digest"]:
                raise ConfigError(
                    f"{data.name} has changed since these runs: its digest is {digest}, theirs "
                    f"{first.saved.facts['data_digest']}. Train them again."
                )
            place = RunFolder(OUTPUTS / data.name / self.stem, "", (), self.console.note)
            self.folder, _ = place.choose(self.cfg.output_dir, None, self.started)
            self.folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.cfg, self.folder / "config.yaml")
            with self.open_tracker(data) as tracker:
                return self.weigh_and_test(data, digest, tracker)

    def weigh_and_test(self, data: Interactions, digest: str, tracker: Tracker) -> dict[str, Any]:
        """Choose weights on the validation part, test the refitted models, write it all down."""
        begin = time.perf_counter()
        self.console.note(f"output {self.folder}   {tracker.url}")
        left, held = data.held_out(float(self.members[0].cfg.val_fraction), SPLIT_SEED)
        ready = [member.before_refit(left) for member in self.members]
        judge = FullRanking(held, left, ks=sorted({*self.ks, self.monitored_k}))
        weights = self.weights or self.choose(ready, left, held)
        weights = [weight / sum(weights) for weight in weights]
        kept, specs = zip(*(member.after_refit() for member in self.members), strict=True)
        rankings = {"val": judge.of_scores(blend_of(ready, specs, weights).scores)}
        del ready  # members may be large
        blend = blend_of(kept, specs, weights)
        if data.test is not None:
            judge = FullRanking(data.test, data.train, ks=self.ks)
            rankings["test"] = judge.of_scores(blend.scores)
        self.spec = dataclasses.replace(
            self.spec,
            arguments={
                "members": [s for s, weight in zip(specs, weights, strict=True) if weight > 0],
                "weights": list(blend.weights),
            },
        )
        saved = SavedCF(blend, data, self.spec, {"data": data.name, "data_digest": digest})
        return self.write_down(saved, rankings, weights, time.perf_counter() - begin, tracker)

    def write_down(
        self,
        saved: SavedCF,
        rankings: dict[str, Ranking],
        weights: list[float],
        seconds: float,
        tracker: Tracker,
    ) -> dict[str, Any]:
        """Model, numbers and figures: in the output folder, in MLflow and on screen."""
        self.console.table(
            "weights" if self.weights is None else "weights, as given",
            ("member", "weight", "run"),
            [
                (member.name, f"{weight:.3f}", str(member.folder))
                for member, weight in zip(self.members, weights, strict=True)
            ],
        )
        result: dict[str, Any] = {
            "run_id": tracker.run_id,
            "model": self.stem,
            "data": saved.data.name,
            "seed": self.seed,
            "config": config.plain(self.cfg),
            "data_digest": saved.facts["data_digest"],
            "selection": "validation",
            "members": [str(member.folder) for member in self.members],
            "weights": weights,
            "num_parameters": 0,
            "model_bytes": sum(t.nbytes for t in saved.model.state_dict().values()),
            "metrics": {name: found.metrics for name, found in rankings.items()},
            "counts": {name: found.counts for name, found in rankings.items()},
            "epochs": 0,
            "steps": 0,
            "fit_seconds": seconds,
            "train_rows_per_second": 0.0,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "notes": list(saved.data.notes),
        }
        tracker.log_params(
            {
                f"weight/{number}_{member.name}": weight
                for number, (member, weight) in enumerate(zip(self.members, weights, strict=True))
            }
        )
        plots = self.folder / "plots"
        plots.mkdir(exist_ok=True)
        ranking = list(rankings.values())[-1]
        write_ranking(plots, self.spec.class_name, saved.data.name, ranking, self.ks[-1])
        saved.facts = self.facts(result)
        saved.save(self.folder / "model")
        tracker.log_artifact(self.folder / "model", "model")
        more = {f"val/{name}": value for name, value in rankings["val"].metrics.items()}
        self.publish(result, plots, tracker, 0, more)
        return result

    @torch.no_grad()
    def choose(self, members: list[CFModel], left: Pairs, held: Pairs) -> list[float]:
        """Weights that make the monitored metric best on the validation part."""
        users = np.flatnonzero(held.user_degrees)
        if len(users) > self.users:  # as many as the weights of a few models need
            users = np.sort(np.random.default_rng(0).choice(users, self.users, replace=False))
        judged = Candidates.of(
            members,
            torch.from_numpy(users),
            left,
            held,
            self.candidates,
            lambda done, total: self.console.preparing(done, total, "weigh", "users"),
        )
        metric = self.monitor
        return best_weights(
            lambda weights: judged.metric(metric, self.monitored_k, weights), len(members)
        )


def blend_of(
    members: Sequence[CFModel], specs: Sequence[dict[str, Any]], weights: Sequence[float]
) -> Blend:
    """Of the members that have a weight."""
    used = [number for number, weight in enumerate(weights) if weight > 0]
    return Blend.of(
        [members[i] for i in used], [specs[i] for i in used], [weights[i] for i in used]
    )


def frozen(model: CFModel) -> CFModel:
    """A model of vectors as these alone: no graph to walk at every call."""
    if isinstance(model, EmbeddingModel):
        with torch.no_grad():
            return Vectors.of(*model.eval()())
    return model.eval()


def check_alike(members: list[Member]) -> None:
    """Raise ConfigError for runs on other pairs, or that held out another validation part."""
    for member in members:
        run, facts = member.folder, member.saved.facts
        if member.cfg.get("selection") != "validation":
            raise ConfigError(
                f"{run} has selection={member.cfg.get('selection')}: nothing was held out to weigh "
                "it by. Train it with selection=validation."
            )
        if facts["data_digest"] != members[0].saved.facts["data_digest"]:
            raise ConfigError(
                f"{run} is of other pairs than {members[0].folder} (digests "
                f"{facts['data_digest']} and {members[0].saved.facts['data_digest']})."
            )
        if member.cfg.val_fraction != members[0].cfg.val_fraction:
            raise ConfigError(
                f"{run} held out {member.cfg.val_fraction} of the pairs, {members[0].folder} "
                f"{members[0].cfg.val_fraction}. Train with one val_fraction."
            )
