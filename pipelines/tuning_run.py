"""One search from configuration to result, in the order in which a person reads about it."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.trial import FrozenTrial, TrialState

import recsys
from pipelines.boosting_run import BoostingRun
from pipelines.ranking_run import RankingRun
from pipelines.ranking_trial import PairsPlace, TrialPairs, check_searched, run_ranking_trial
from pipelines.tracked_run import OUTPUTS, chosen_spec, loggable
from pipelines.training_run import TrainingRun
from pipelines.trial_run import TrialData, TrialPlace, refuse_ranks, run_trial
from pipelines.tuning_result import TuningResult, mean_of, short, spread
from recsys import config
from recsys.data.atomic import write_text_whole
from recsys.data.interactions import Interactions
from recsys.data.prepare import Prepared
from recsys.errors import ConfigError
from recsys.models.collaborative import ClosedForm
from recsys.models.registry import import_target
from recsys.models.saved import ModelSpec
from recsys.tracking.console import Console
from recsys.tracking.figures import Subject
from recsys.tracking.format import duration
from recsys.tracking.names import experiment_name
from recsys.tracking.run import open_tracker
from recsys.tracking.store import resolve_uri, sqlite_path
from recsys.tracking.tracker import Tracker
from recsys.training.options import TrainerOptions
from recsys.training.plateau import HIGHER_IS_BETTER
from recsys.training.ranking_loop import RankingOptions
from recsys.tuning import history
from recsys.tuning import ranked_columns as ranked
from recsys.tuning.options import RANK, SearchOptions
from recsys.tuning.space import Dimension, check_space, decoded, parse_space
from recsys.tuning.study import (
    FAILURES_OF_A_TRIAL,
    best_first,
    num_taken,
    open_study,
    reason_of,
    search,
    sqlite_file,
)


class TuningRun:
    """Everything that one `python -m pipelines.tune` does.

    Args:
        cfg: Composed configuration.
        family: Chosen model family.

    Raises:
        ConfigError: a key of the space does not exist, or a value is out of range; nothing has been
            read yet.
    """

    def __init__(self, cfg: DictConfig, family: str) -> None:
        refuse_ranks()
        self.family = family
        self.options = config.build_options(SearchOptions, cfg.search, "search")
        self.seeds = chosen_seeds(cfg.seed)
        self.base = cfg.copy()
        with open_dict(self.base):
            del self.base["search"]
        self.base.seed = self.seeds[0]
        self.base.console = "none"
        self.cfg = cfg
        self.spec = chosen_spec(self.base, family)
        self.ranks_items = family in ("cf", "towers")
        self.trainer_options = options_of_training(self.base, family, self.spec)
        self.monitor = self.trainer_options.monitor
        self.maximize = HIGHER_IS_BETTER.get(self.monitor, True)
        self.space = check_space(parse_space(self.options.space), config.plain(self.base))
        if self.ranks_items:
            self.check_ranking()
        if not self.space and self.options.features is None:
            raise ConfigError(
                "the space is empty: choose one, search=autoint, or name keys, "
                "'search.space={optimizer.lr: {low: 1e-4, high: 1e-2, log: true}}'."
            )
        if self.options.features and "data.top" in {one.key for one in self.space}:
            raise ConfigError("search.features searches data.top; take it out of search.space.")

    def check_ranking(self) -> None:
        """Raise ConfigError for what makes no sense for models of users and items."""
        if self.options.features is not None:
            raise ConfigError(
                f"search.features={self.options.features} is a ranking of columns; {self.family} "
                "models learn from pairs. Leave it out."
            )
        model = import_target(self.base[self.family]["_target_"])
        fitted = isinstance(model, type) and issubclass(model, ClosedForm)
        check_searched(self.space, self.base, self.family, fitted)

    def run(self) -> dict[str, Any]:
        """Prepare, search, repeat, write."""
        begin = time.monotonic()
        with Console(self.cfg.console) as self.console:
            self.console.banner(
                f"recsys {recsys.__version__} - tuning {self.spec.class_name} - seed"
                f"{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
            )
            whole = self.read()
            self.columns, spent = self.ranked_columns(whole)
            self.open(whole)
            if spent and "preparation" not in self.study.user_attrs:
                self.study.set_user_attr("preparation", spent)
            with self.tracker(whole) as self.parent:
                try:
                    self.search(time.monotonic() - begin)
                except KeyboardInterrupt as stopped:
                    self.write(partial=True)
                    raise KeyboardInterrupt(
                        f"stopped after {num_taken(self.study)} trials; the same command goes on"
                    ) from stopped
                except ConfigError:
                    self.write(partial=True)  # the reasons of all failures
                    raise
                return self.write()

    # -- before the first trial ----------------------------------------------------------------

    def read(self) -> Prepared | Interactions:
        """The rows or pairs on which all trials are compared."""
        if self.ranks_items:
            self.pairs = TrialPairs(self.console)
            pairs = self.pairs.of(self.base, self.family)
            self.pairs.introduce(pairs)
            self.subject = Subject(self.spec.class_name, pairs.name, len(pairs.train))
            return pairs
        self.data = TrialData(self.console)
        whole = self.data.of(self.base, self.family)
        self.data.introduce(whole)
        self.subject = Subject(self.spec.class_name, whole.name, whole.train.num_rows)
        return whole

    def ranked_columns(
        self, data: Prepared | Interactions
    ) -> tuple[ranked.RankedColumns | None, float]:
        """The columns to choose among, and the seconds that ranking them took."""
        if self.options.features is None or isinstance(data, Interactions):
            return None, 0.0
        begin = time.monotonic()
        path = Path(self.options.features)
        if self.options.features == RANK:
            path = OUTPUTS / data.name / "ranking" / f"for-{data.digest}" / "ranking.csv"
            if not path.with_name("ranking.json").is_file():  # which is written last
                self.rank(path.parent)
        found = ranked.read_columns(path, self.options.shrink)
        there = data.pipeline.schema.names
        unknown = sorted(set(found.names) - set(there))
        if unknown:
            raise ConfigError(
                f"search.features={path} ranks {', '.join(unknown[:5])}, which {data.name} has "
                "not. Rank its own columns: search.features=rank."
            )
        self.console.note(
            f"columns: {len(found.names)} of {len(there)} are searched, best first "
            f"{', '.join(found.names[:5])} ...; sizes {', '.join(map(str, found.sizes[:12]))}"
            f"{' ...' if len(found.sizes) > 12 else ''}"
        )
        return found, time.monotonic() - begin

    def rank(self, folder: Path) -> None:
        """Rank the columns by the training rows, as `pipelines.rank_features` does."""
        from pipelines.rank_features import rank_features

        cfg = config.compose("rank_features", ["tracking=none", "console=none"])
        with open_dict(cfg):
            cfg.data = self.base.data
        cfg.ranking.halves = 0  # how stable ranks are is for people to read
        cfg.output_dir = str(folder)
        self.console.note("ranking the columns by the training rows")
        rank_features(cfg)

    def open(self, data: Prepared | Interactions) -> None:
        """The study, its folder, and what is there of it already."""
        what: dict[str, Any] = {
            **config.plain(self.base), "seeds": self.seeds,
            "space": {one.key: str(one.distribution) for one in self.space},
            "columns": self.columns and [self.columns.names, self.columns.sizes],
        }  # fmt: skip
        fingerprint = config.identity(OmegaConf.create(what))
        name = self.options.study or f"{data.name}-{self.spec.stem}-{fingerprint[:8]}"
        self.study = open_study(
            self.options, self.storage(), name, fingerprint, self.maximize,
            self.trainer_options.epochs,
        )  # fmt: skip
        if self.columns is not None and self.options.pruner != "none":
            self.study.pruner = ranked.SameSizePruner(self.study.pruner)
        given = self.cfg.output_dir
        self.folder = Path(given) if given else OUTPUTS / data.name / "tune" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        done, total = num_taken(self.study), self.options.trials
        of = f" of {total}" if total else ""
        if done:
            self.console.note(f"continuing study {name}: {done}{of} trials done")
        else:
            self.console.note(f"study {name}: {', '.join(one.key for one in self.dimensions())}")
        self.console.note(f"output {self.folder}   storage {shown_storage(self.storage())}")

    def dimensions(self) -> tuple[Dimension, ...]:
        """The space, with the number of columns where that is searched."""
        return self.space if self.columns is None else (self.columns.dimension, *self.space)

    def storage(self) -> str:
        """The Optuna storage: the one named, or SQLite beside the MLflow store."""
        if self.options.storage:
            return self.options.storage
        beside = sqlite_path(resolve_uri(self.base.tracking.get("uri")))
        folder = OUTPUTS.absolute() if beside is None else beside.parent
        return f"sqlite:///{folder / 'optuna.db'}"

    @contextmanager
    def tracker(self, data: Prepared | Interactions) -> Iterator[Tracker]:
        """The run in MLflow whose children the trials are; every process adds to the same."""
        uri = resolve_uri(self.base.tracking.get("uri"))
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of two processes that start, one makes the run
            kept = self.study.user_attrs.get("mlflow")
            tracked = self.base.tracking.kind != "none"
            known = kept["run_id"] if tracked and kept and kept["uri"] == uri else None
            opened = open_tracker(
                self.base.tracking.kind,
                experiment=experiment_name(data.name),
                run_name=f"tune-{self.spec.stem}-{datetime.now():%Y%m%d-%H%M%S}",
                uri=self.base.tracking.get("uri"),
                tags={"model": self.spec.stem, "family": self.family, "dataset": data.name,
                      "task": "tune", "sweep": self.study.study_name,
                      **config.plain(self.base.tracking.get("tags") or {})},
                resume_run_id=known,
                notify=self.console.note,
            )  # fmt: skip
            with opened as tracker:
                if tracked and known is None:
                    self.study.set_user_attr("mlflow", {"run_id": tracker.run_id, "uri": uri})
                    tracker.log_params(
                        {**loggable(self.base), "search": config.plain(self.cfg.search)}
                    )
                fcntl.flock(lock, fcntl.LOCK_UN)
                yield tracker

    # -- the search ------------------------------------------------------------------------------

    def search(self, spent: float) -> None:
        """Try configurations, then repeat the best."""
        search(self.study, self.objective, self.options, self.tell, self.plan, spent)
        self.repeat_best()

    def plan(self, study: optuna.Study) -> None:
        """Over ranked columns, the next trial may be known already."""
        if self.columns is not None and self.columns.halving:
            ranked.Halving(self.columns)(study)

    def configuration(self, params: dict[str, Any], seed: int) -> DictConfig:
        """The training configuration of a trial's parameters."""
        cfg = self.base.copy()
        cfg.seed = seed
        for one in self.dimensions():
            self.apply(cfg, one.key, one.value(params[one.key]))
        return cfg

    def apply(self, cfg: DictConfig, key: str, value: Any) -> None:
        """Give a configuration one value of a trial."""
        if self.columns is not None and key == ranked.KEY:
            cfg.data.features, cfg.data.top = self.columns.taken(value), None
        else:
            OmegaConf.update(cfg, key, value)

    def objective(self, trial: optuna.Trial) -> float:
        """Mean over the seeds; only the first one's run can be stopped early."""
        for one in self.dimensions():
            one.suggest(trial)
        values: list[float] = []
        results = []
        for at, seed in enumerate(self.seeds):
            result = self.train(trial.number, trial.params, seed, trial if at == 0 else None)
            results.append(result)
            values.append(result["value"])
        trial.set_user_attr("values", dict(zip(map(str, self.seeds), values, strict=True)))
        names = [name for name in results[0]["metrics"] if name.count("/") == 0]
        trial.set_user_attr(
            "metrics",
            {name: mean_of(one["metrics"].get(name) for one in results) for name in names},
        )
        for name in ("num_parameters", "epochs", "train_rows_per_second"):
            trial.set_user_attr(name, results[0][name])
        return mean_of(values)

    def train(
        self, number: int, params: dict[str, Any], seed: int, trial: optuna.Trial | None
    ) -> dict[str, Any]:
        """One run of a configuration."""
        cfg = self.configuration(params, seed)
        name = f"trial-{number:03d}" + (f"-seed{seed}" if len(self.seeds) > 1 or not trial else "")
        parent = self.parent.run_id if self.base.tracking.kind != "none" else None
        tags = {"sweep": self.study.study_name, "trial": number}
        folder = self.folder / name
        if self.ranks_items:
            pairs = self.pairs.of(cfg, self.family)
            here = PairsPlace(data=pairs, folder=folder, name=name, parent_run_id=parent, tags=tags)
            return run_ranking_trial(cfg, self.family, here, trial)
        rows = self.data.of(cfg, self.family)
        place = TrialPlace(data=rows, folder=folder, name=name, parent_run_id=parent, tags=tags)
        return run_trial(cfg, self.family, place, trial)

    def repeat_best(self) -> None:
        """Train the finalists on further seeds; their values are kept with the study."""
        for trial in best_first(self.study)[: self.options.finalists]:
            key = f"final-{trial.number}"
            values = {**trial.user_attrs["values"], **self.study.user_attrs.get(key, {})}
            try:
                for seed in self.final_seeds:
                    if str(seed) not in values:
                        found = self.train(trial.number, trial.params, seed, None)
                        values[str(seed)] = found["value"]
                        self.study.set_user_attr(key, values)
            except FAILURES_OF_A_TRIAL as error:
                self.console.warn(f"trial {trial.number} is no finalist: {reason_of(error)}")
                continue
            self.study.set_user_attr(key, values)
            self.console.note(
                f"trial {trial.number} on {len(values)} seeds: "
                f"{self.monitor} {spread(list(values.values()))}"
            )

    @property
    def final_seeds(self) -> list[int]:
        """Seeds of the finalists."""
        return [self.seeds[0] + more for more in range(self.options.final_seeds)]

    def tell(self, trial: FrozenTrial) -> None:
        """One line per trial, and the best so far in MLflow."""
        best = best_first(self.study)
        of = f"/{self.options.trials}" if self.options.trials else ""
        line = f"{num_taken(self.study)}{of}  trial {trial.number} {history.STATES[trial.state]}"
        if trial.value is not None:
            line += f"  {self.monitor} {trial.value:.5f}"
        if best:
            mark = " best" if best[0].number == trial.number else f" (best {best[0].value:.5f})"
            line += mark
            if best[0].value is not None:
                self.parent.log_metrics({f"best/{self.monitor}": best[0].value}, trial.number)
        if trial.duration is not None:
            line += f"  {duration(trial.duration.total_seconds())}"
        chosen = "  ".join(f"{k}={short(decoded(v))}" for k, v in trial.params.items())
        self.console.note(f"{line}  {chosen}")
        if trial.state == TrialState.FAIL:
            self.console.warn(f"  {trial.user_attrs.get('reason')}")

    # -- the result ------------------------------------------------------------------------------

    def write(self, partial: bool = False) -> dict[str, Any]:
        """Table, figures, and the best configuration."""
        table = history.trial_table(self.study)
        if not len(table):
            return {}
        left = TuningResult(
            study=self.study, folder=self.folder, subject=self.subject, monitor=self.monitor,
            maximize=self.maximize, dimensions=self.dimensions(), seeds=tuple(self.seeds),
            final_seeds=tuple(self.final_seeds), configuration=self.configuration,
        )  # fmt: skip
        about = {"storage": shown_storage(self.storage()), "run_id": self.parent.run_id}
        result = left.write(table, about)
        if self.cfg.result_file:
            write_text_whole(Path(self.cfg.result_file), json.dumps(result, indent=1))
        for name in ("trials.csv", "result.json", "best.yaml"):
            if (self.folder / name).is_file():
                self.parent.log_artifact(self.folder / name)
        self.parent.log_artifact(self.folder / "plots", "plots")
        if not partial:
            self.show(left, result["trials"])
        return {**result, "folder": str(self.folder)}

    def show(self, left: TuningResult, states: dict[str, int]) -> None:
        """The best configurations, and what to do with them."""
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        columns, rows = left.shown()
        if not rows:
            self.console.warn(f"no trial has a value ({told}); see {self.folder / 'trials.csv'}")
            return
        self.console.table(f"Best of {told}", columns, rows)
        if sqlite_file(self.storage()) is None:
            self.console.note("trials of other machines that are still running are not counted")
        self.console.note(f"saved in {self.folder}   {self.parent.url}")
        self.console.note(f"next: python -m pipelines.train experiment={self.folder / 'best.yaml'}")


def options_of_training(
    cfg: DictConfig, family: str, spec: ModelSpec
) -> TrainerOptions | RankingOptions:
    """How long a trial trains; everything else of a configuration is checked with it."""
    if family in ("cf", "towers"):
        return RankingRun(cfg, family).options
    return (BoostingRun if spec.boosted else TrainingRun)(cfg, family).trainer_options


def chosen_seeds(given: Any) -> list[int]:
    """The seeds of `seed=3` or `seed=[0,1,2]`.

    Raises:
        ConfigError: something else.
    """
    seeds = config.plain(given)
    seeds = seeds if isinstance(seeds, list) else [seeds]
    whole = all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"seed={given} must be a whole number, or several different ones: seed=range(3), "
            "seed=[0,1,2]."
        )
    return seeds


def shown_storage(storage: str) -> str:
    """A storage without its password."""
    from recsys.tracking.store import shown

    return shown(storage)
