"""Rank the columns of a table by what they tell about its label, and look at their quality.

    python -m pipelines.rank_features data=criteo data.source=<folder>
    python -m pipelines.rank_features data=parquet data.path=clicks.parquet data.label=clicked
    python -m pipelines.train ctr=autoint data=... data.features=<folder>/kept.csv

Exact counts in one pass, whatever the size of the table; chance taken off analytically, an error
bar, a held-out check, pairs of columns, four greedy orders. Training rows are counted, validation
rows check, test rows are not read. Any column can be the label: label=<column>, of two classes,
several, or a number.

Writes to output_dir
    report.html            everything on one page, with tables that sort
    ranking.csv, .parquet  columns, best first: feature, score, ...; data.features takes it
    pairs, selection, drift, label_periods, rare, values   .csv, .parquet
    kept.csv               columns above chance alone or in a pair, best first, without copies and
                           leak suspects; data.features takes it, with data.top=<number> or without
    suggestions.csv, suggested.yaml   why each is kept or not, minimum counts, widths; an experiment
    ranking.json           the same for programs
"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from recsys import config

if TYPE_CHECKING:
    import polars as pl

    from recsys.feature_ranking.ranking import Ranking
    from recsys.tracking.tracker import Tracker

UNITS = {"columns": "columns", "pairs": "pairs"}
"""What is counted in a stage of the work, where it is not rows."""
SHOWN = 20
SHOWN_PAIRS = 5


def rank_features(cfg: DictConfig) -> dict[str, Any]:
    """Rank, write, show.

    Returns:
        What `ranking.json` holds of the whole, and its `folder`.
    """
    from recsys.data.options import apply_options
    from recsys.feature_ranking.ranking import RankingOptions
    from recsys.feature_ranking.ranking import rank_features as rank
    from recsys.tracking.console import Console

    options = config.build_options(RankingOptions, cfg.ranking, "ranking")
    raw, data_options = config.build_dataset(cfg.data)
    schema = apply_options(raw.schema, data_options)
    rule = data_options.rule_of(raw, schema)
    raw = dataclasses.replace(raw, schema=schema)
    started = datetime.now()
    with Console(cfg.console) as console:
        console.banner(f"ranking the {len(schema.fields)} columns of {raw.name}")
        folder = Path(
            cfg.output_dir or Path("outputs") / raw.name / "ranking" / f"{started:%Y%m%d-%H%M%S}"
        )
        with _tracker(cfg, raw.name, started, console.note) as tracker:
            found = rank(
                raw, options, label=cfg.label, rule=rule,
                progress=lambda done, total, stage: console.preparing(
                    done, total, stage, UNITS.get(stage, "rows")
                ),
            )  # fmt: skip
            for note in raw.notes:
                console.note(f"note: {note}")
            kept = write(found, folder)
            _log(found, folder, tracker, cfg)
        console.table("Columns", *_shown(found.features))
        if len(found.pairs):
            console.table("Pairs", *_shown_pairs(found.pairs))
        console.note(
            f"{found.facts['train_rows']:,} rows, {found.facts['columns']} columns in "
            f"{found.facts['seconds']:.1f} s"
        )
        console.note(f"report: {folder / 'report.html'}")
        if kept:
            console.note(
                f"next: data.features={folder / 'kept.csv'} ({kept} of "
                f"{found.facts['columns']} columns; data.top=<number> takes fewer)"
            )
        else:
            console.note("no column tells more than chance: see the report for what they hold")
    return {**found.facts, "folder": str(folder)}


def write(ranking: Ranking, folder: Path) -> int:
    """Every table, the page, and what is suggested; the number of columns to keep."""
    from recsys.data.atomic import write_text_whole
    from recsys.feature_ranking import report
    from recsys.feature_ranking.suggest import as_yaml, suggest

    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "ranking": ranking.features, "pairs": ranking.pairs, "selection": ranking.selection,
        "drift": ranking.drift, "label_periods": ranking.label_periods, "rare": ranking.rare,
        "values": ranking.values,
    }  # fmt: skip
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
        write_text_whole(folder / f"{name}.csv", table.write_csv())
    suggestions = suggest(ranking.features, ranking.rare, ranking.pairs)
    write_text_whole(folder / "suggestions.csv", suggestions.write_csv())
    kept = suggestions.filter("keep").select("feature", "worth", "reason")
    write_text_whole(folder / "kept.csv", kept.write_csv())
    write_text_whole(
        folder / "suggested.yaml", as_yaml(suggestions, str((folder / "kept.csv").resolve()))
    )
    write_text_whole(folder / "report.html", report.render(ranking, suggestions))
    write_text_whole(folder / "ranking.json", report.as_json(ranking))
    return len(kept)


def _tracker(
    cfg: DictConfig, data: str, started: datetime, notify: Any
) -> AbstractContextManager[Tracker]:
    from recsys.tracking.names import experiment_name, run_name
    from recsys.tracking.run import open_tracker

    return open_tracker(
        cfg.tracking.kind,
        experiment=experiment_name(data),
        run_name=run_name("ranking", started),
        uri=cfg.tracking.get("uri"),
        tags={"task": "rank_features"},
        notify=notify,
    )


def _log(ranking: Ranking, folder: Path, tracker: Tracker, cfg: DictConfig) -> None:
    tracker.log_params({"ranking": config.plain(cfg.ranking), "label": ranking.facts["label"]})
    best = ranking.features.head(1)
    tracker.log_metrics(
        {
            "columns": ranking.facts["columns"],
            "train_rows": ranking.facts["train_rows"],
            "seconds": ranking.facts["seconds"],
            "above_chance": int((ranking.features["q"] <= 0.05).sum()),
            "best_score": float(best["score"][0]),
        },
        step=0,
    )
    tracker.log_artifact(folder, "ranking")


def _shown(features: pl.DataFrame) -> tuple[list[str], list[list[object]]]:
    columns = ["rank", "feature", "score", "excess", "z", "q", "gain", "values", "missing", "flags"]
    rows = [
        [
            row["rank"], row["feature"], f"{row['score']:.5f}", f"{row['excess']:.5f}",
            f"{row['z']:.1f}", f"{row['q']:.2g}", f"{row['gain']:.5f}", f"{row['values']:,}",
            f"{row['missing']:.1%}", row["flags"],
        ]
        for row in features.head(SHOWN).iter_rows(named=True)
    ]  # fmt: skip
    return columns, rows


def _shown_pairs(pairs: pl.DataFrame) -> tuple[list[str], list[list[object]]]:
    columns = ["first", "second", "interaction", "z", "redundancy"]
    rows = [
        [row["first"], row["second"], f"{row['interaction']:.5f}", f"{row['z']:.1f}",
         f"{row['redundancy']:.3f}"]
        for row in pairs.head(SHOWN_PAIRS).iter_rows(named=True)
    ]  # fmt: skip
    return columns, rows


if __name__ == "__main__":
    config.main(rank_features, "rank_features")
