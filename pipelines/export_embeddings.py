"""Write the vectors of a finished run to Parquet, under external ids.

    python -m pipelines.export_embeddings run=<run id of a cf model>
    python -m pipelines.export_embeddings run=outputs/gowalla/ultragcn/<time> dtype=float16
    python -m pipelines.export_embeddings run=<run id of a ctr or mtl model> field=item
    python -m pipelines.export_embeddings run=<run id> projector=10000

Of a cf model users and items are written, of any other the table of one field. Each is a folder of
output_dir: part-*.parquet with id, vector, norm and popularity (rows of training), and
embeddings.json with run, data, similarity and checksums, and projection.png, the two principal
components. Rows stream: the table of a field may be larger than memory. projector=<rows> adds
embeddings.tsv and metadata.tsv of the most popular rows.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recsys import config
from recsys.errors import ConfigError


def export_embeddings(cfg: DictConfig) -> dict[str, Any]:
    """Export the configured tables.

    Returns:
        Where they are, and their cards.
    """
    if cfg.run is None:
        raise ConfigError(
            "run is missing. Example: python -m pipelines.export_embeddings run=<run id>"
        )
    projected = config.at_least("projector", cfg.projector, 0)
    rows_per_shard = config.at_least("rows_per_shard", cfg.rows_per_shard, 1)

    import pyarrow as pa

    from recsys.models import saved_cf
    from recsys.retrieval.export import export_tables
    from recsys.retrieval.exported import ExportedVectors
    from recsys.retrieval.field_table import FieldVectors
    from recsys.retrieval.number_format import check_dtype
    from recsys.retrieval.projection import projection_plot
    from recsys.retrieval.projector import write_projector
    from recsys.retrieval.vectors import VectorSource, vectors_of_cf
    from recsys.tracking.console import Console
    from recsys.tracking.figures import Subject, save_figure
    from recsys.tracking.find import find_model

    check_dtype(cfg.dtype)
    folder = find_model(str(cfg.run), cfg.tracking.get("uri"))
    sources: list[VectorSource]
    titles: dict[str, pa.Array] = {}
    if saved_cf.is_cf(folder):
        if cfg.field is not None:
            raise ConfigError(
                f"field={cfg.field} is nothing for the run of a cf model, whose users and items "
                "are exported. Leave it out."
            )
        saved = saved_cf.SavedCF.load(folder)
        sources = list(vectors_of_cf(saved).values())
        facts = {**saved.facts, "model": saved.spec.stem}
        if saved.data.titles is not None:
            titles["items"] = saved.data.titles
    else:
        if cfg.field is None:
            raise ConfigError(
                "field is missing: of a ctr or mtl model the table of one field is exported. "
                "Example: python -m pipelines.export_embeddings run=<run id> field=item"
            )
        field = FieldVectors(folder, str(cfg.field))
        sources, facts = [field], field.facts
    output = Path(cfg.output_dir or Path("outputs/embeddings") / f"{datetime.now():%Y%m%d-%H%M%S}")
    with Console(cfg.console) as console:
        console.banner(f"vectors of {facts['model']} on {facts['data']}, {cfg.dtype}")
        cards = export_tables(
            sources,
            output,
            facts,
            dtype=cfg.dtype,
            rows_per_shard=rows_per_shard,
            progress=lambda done, total: console.preparing(done, total, "export"),
        )
        for card in cards:
            there = output / str(card["folder"])
            table = ExportedVectors(there)
            drawn = projection_plot(Subject(facts["model"], facts["data"], len(table)), table)
            if drawn is not None:
                save_figure(*drawn, there / "projection")
            if projected:
                write_projector(table, there, projected, titles.get(card["name"]))
        console.table(
            f"written to {output}",
            ("table", "rows", "width", "similarity", "files", "bytes"),
            [
                (card["name"], f"{card['num_rows']:,}", card["dim"], card["similarity"],
                 len(card["files"]), f"{sum(one['bytes'] for one in card['files'].values()):,}")
                for card in cards
            ],
        )  # fmt: skip
        console.note(f"next: python -m pipelines.build_index embeddings={output}")
    return {"folder": str(output), "tables": cards}


if __name__ == "__main__":
    config.main(export_embeddings, "export_embeddings")
