"""Recommend items to one user or to many, by a finished run of a cf model.

    python -m pipelines.recommend run=<run id> user=<id> k=10
    python -m pipelines.recommend run=<run id> item=<id>
    python -m pipelines.recommend run=<run id> users=people.parquet index=<index> k=20
    python -m pipelines.recommend run=<run id> user=<id> items=films.parquet where='genres=Comedy'
    python -m pipelines.recommend run=<run id> user=<id> rank_by=<run id of a ctr model> \\
        users=people.parquet items=films.parquet

What a user has in the training pairs is left out. Lists for a table of users go to
recommendations.parquet in output_dir; those of one user, and of one item the items of the nearest
vectors (cosine), are printed. where, allow and deny say which items may be shown. rank_by retrieves
`candidates` items for each user and ranks them by a click model, whose other columns come from the
tables of users and items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from recsys import config
from recsys.errors import ConfigError, SchemaError

if TYPE_CHECKING:
    import pyarrow as pa

    from recsys.models.saved_cf import SavedCF
    from recsys.retrieval.candidates import Candidates, Lists
    from recsys.retrieval.feature_table import FeatureTable
    from recsys.retrieval.rank import Ranker
    from recsys.tracking.console import Console

FALLBACKS = ("popularity",)


def recommend(cfg: DictConfig) -> dict[str, Any]:
    """Serve what is asked for.

    Returns:
        `recommendations`, a table, for one user or item; else what `result.json` holds,
        and its `folder`.
    """
    example = "Example: python -m pipelines.recommend run=<run id> user=<id>"
    if cfg.run is None:
        raise ConfigError(f"run is missing. {example}")
    if cfg.item is None and cfg.user is None and cfg.users is None:
        raise ConfigError(f"nobody is asked for: give user=, users= or item=. {example}")
    others = [key for key in ("user", "users", "rank_by", "index") if cfg[key] is not None]
    if cfg.item is not None and others:
        raise ConfigError(
            f"item={cfg.item} asks for similar items, which {others[0]} is nothing for. Leave "
            f"{others[0]} out."
        )
    if cfg.where is not None and cfg["items"] is None:
        raise ConfigError(f"where={cfg.where} reads the columns of a table: give items=<table>.")
    if cfg.fallback is not None and cfg.fallback not in FALLBACKS:
        raise ConfigError(f"fallback={cfg.fallback}; allowed: {', '.join(FALLBACKS)}, or null.")
    for key in ("k", "candidates", "block_users"):
        config.at_least(key, cfg[key], 1)

    from recsys.models import saved_cf
    from recsys.tracking.console import Console
    from recsys.tracking.find import find_model

    folder = find_model(str(cfg.run), cfg.tracking.get("uri"))
    if not saved_cf.is_cf(folder):
        raise ConfigError(
            f"run={cfg.run} is not of a model of users and items. Give the run of a cf model; a "
            "click model ranks what it retrieves: rank_by=<run id>."
        )
    with Console(cfg.console) as console:
        saved = saved_cf.SavedCF.load(folder)
        return Service(cfg, saved, console).serve()


class Service:
    """Everything that one command needs.

    Args:
        cfg: Composed configuration.
        saved: The model that retrieves.
        console: Told what happens.

    Raises:
        ConfigError, SchemaError, CheckpointError: something given does not fit the model.
    """

    def __init__(self, cfg: DictConfig, saved: SavedCF, console: Console) -> None:
        from recsys.retrieval.candidates import Candidates, allowed_items
        from recsys.retrieval.external_ids import read_ids
        from recsys.retrieval.feature_table import FeatureTable
        from recsys.retrieval.index_folder import load_index

        self.cfg, self.saved, self.console = cfg, saved, console
        data = saved.data
        self.item_table: FeatureTable | None = None
        self.user_table: FeatureTable | None = None
        if cfg["items"] is not None:
            kind = data.item_ids.type
            self.item_table = FeatureTable.open(str(cfg["items"]), cfg.data.item, kind, "item")
        if cfg.users is not None:
            kind = data.user_ids.type
            self.user_table = FeatureTable.open(str(cfg.users), cfg.data.user, kind, "user")
        fulfilled = None
        if cfg.where is not None:
            assert self.item_table is not None
            fulfilled = self.item_table.where(str(cfg.where), data.item_ids)
        listed = {
            key: read_ids(str(cfg[key]), cfg.data.item, data.item_ids.type, "item")
            for key in ("allow", "deny")
            if cfg[key] is not None
        }
        allowed = allowed_items(data.item_ids, listed.get("allow"), listed.get("deny"), fulfilled)
        index = None if cfg.index is None else load_index(Path(str(cfg.index)))
        self.candidates: Candidates = Candidates(saved, index, allowed, bool(cfg.known))
        self.ranker = None if cfg.rank_by is None else self._ranker()

    def _ranker(self) -> Ranker:
        from recsys.models import saved_cf
        from recsys.models.saved import SavedModel
        from recsys.retrieval.rank import Ranker
        from recsys.tracking.find import find_model

        cfg = self.cfg
        folder = find_model(str(cfg.rank_by), cfg.tracking.get("uri"))
        if saved_cf.is_cf(folder):
            raise ConfigError(
                f"rank_by={cfg.rank_by} is of a cf model. Give the run of a ctr or mtl model."
            )
        return Ranker(
            SavedModel.load(folder),
            (self.user_table, self.item_table),
            (cfg.data.user, cfg.data.item),
            cfg.rank_label,
        )

    def serve(self) -> dict[str, Any]:
        """One item, one user, or a table of users."""
        from recsys.retrieval.external_ids import as_ids

        cfg, data = self.cfg, self.saved.data
        way = "exactly" if self.candidates.index is None else f"by {cfg.index}"
        ranked = "" if self.ranker is None else f", ranked by {cfg.rank_by}"
        self.console.banner(f"{self.saved.spec.class_name} on {data.name}, {way}{ranked}")
        if self.candidates.exact_because:
            self.console.note(f"note: {self.candidates.exact_because}")
        if cfg.item is not None:
            return self._similar(as_ids([cfg.item], data.item_ids.type, "item"))
        if cfg.user is not None:
            users = as_ids([cfg.user], data.user_ids.type, "user")
            table = self._block(users)
            self._print(table, f"user {users[0].as_py()}")
            return {"recommendations": table}
        assert self.user_table is not None
        return self._many(self.user_table.ids)

    def _similar(self, item: pa.Array) -> dict[str, Any]:
        from recsys.retrieval.external_ids import positions_in

        code = int(positions_in(self.saved.data.item_ids, item)[0])
        if code < 0:
            raise SchemaError(
                f"item {item[0].as_py()!r} is not among the {self.saved.data.num_items:,} items of "
                "training."
            )
        table = self._named(self.candidates.similar(code, self.cfg.k), item, "item_asked")
        self._print(table, f"items like {item[0].as_py()}")
        return {"recommendations": table}

    def _many(self, users: pa.Array) -> dict[str, Any]:
        import pyarrow.parquet as pq

        from recsys.data.atomic import temporary_sibling, write_text_whole

        cfg = self.cfg
        output = Path(cfg.output_dir or f"outputs/recommend/{datetime.now():%Y%m%d-%H%M%S}")
        output.mkdir(parents=True, exist_ok=True)
        target = output / "recommendations.parquet"
        temporary = temporary_sibling(target)
        rows, short, writer = 0, 0, None
        try:
            for table, served in self._blocks(users):
                writer = writer or pq.ParquetWriter(temporary, table.schema)
                writer.write_table(table)
                rows += table.num_rows
                short += served * cfg.k - table.num_rows
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            if writer is not None:
                writer.close()
        temporary.replace(target)
        result = {
            "run": str(cfg.run),
            "model": self.saved.spec.stem,
            "index": None if self.candidates.index is None else str(cfg.index),
            "rank_by": cfg.rank_by,
            "users": len(users),
            "rows": rows,
            "missing_rows": short,
            "recommendations": str(target),
        }
        write_text_whole(output / "result.json", json.dumps(result, indent=1))
        if short:
            self.console.note(f"note: lists are {short:,} rows short: no more items were left")
        self.console.note(f"the best {cfg.k} items of {len(users):,} users in {target}")
        return {**result, "folder": str(output)}

    def _blocks(self, users: pa.Array) -> Iterator[tuple[pa.Table, int]]:
        for start in range(0, len(users), self.cfg.block_users):
            block = users[start : start + self.cfg.block_users]
            yield self._block(block), len(block)
            self.console.preparing(start + len(block), len(users), "recommend", "users")

    def _block(self, users: pa.Array) -> pa.Table:
        """Lists of some users, those without training pairs last."""
        import numpy as np
        import pyarrow as pa

        from recsys.retrieval.external_ids import positions_in

        cfg = self.cfg
        codes = positions_in(self.saved.data.user_ids, users)
        new = users.filter(pa.array(codes < 0))
        if len(new) and cfg.fallback is None:
            raise SchemaError(
                f"user {new[0].as_py()!r} is not among the {self.saved.data.num_users:,} users of "
                f"training ({len(new):,} such). Leave it out, or give fallback=popularity."
            )
        known = users.filter(pa.array(codes >= 0))
        most = self.saved.data.num_items
        wanted = cfg.k if self.ranker is None else max(cfg.k, min(cfg.candidates, most))
        parts = []
        if len(known):
            lists = self.candidates.lists(codes[codes >= 0], wanted)
            if self.ranker is None:
                parts.append(self._named(lists, known))
            else:
                best, before = self.ranker.ranked(lists, known, cfg.k)
                table = self._named(best, known)
                parts.append(table.append_column("retrieval_score", pa.array(before)))
        if len(new):
            one = self.candidates.popular(cfg.k)
            for user in range(len(new)):
                table = self._named(one, new[user : user + 1], source="popularity")
                if self.ranker is not None:
                    nothing = pa.array(np.full(len(table), np.nan, np.float32))
                    table = table.append_column("retrieval_score", nothing)
                parts.append(table)
        return pa.concat_tables(parts)

    def _named(
        self, lists: Lists, asked: pa.Array, column: str = "user", source: str = "model"
    ) -> pa.Table:
        """Rows of lists, with titles where anything has them."""
        import numpy as np
        import pyarrow as pa

        from recsys.retrieval.external_ids import positions_in

        data = self.saved.data
        columns = {
            column: asked.take(pa.array(lists.rows)),
            "rank": pa.array(lists.ranks.astype(np.int32)),
            "item": lists.items,
            "score": pa.array(lists.scores.astype(np.float32)),
            "source": pa.array([source] * len(lists.rows), pa.string()),
        }
        titles = None if self.item_table is None else self.item_table.titles(lists.items)
        if titles is None and data.titles is not None:
            at = positions_in(data.item_ids, lists.items)
            titles = data.titles.take(pa.array(at, mask=at < 0))
        if titles is not None:
            columns["title"] = titles
        return pa.table(columns)

    def _print(self, table: pa.Table, asked: str) -> None:
        rows = table.to_pylist()
        sources = {row["source"] for row in rows} - {"model"}
        titled = "title" in table.column_names
        self.console.table(
            f"{asked}, by {', '.join(sources)} (it is not in the training pairs)"
            if sources
            else asked,
            ("rank", "item", "score", *(["title"] if titled else [])),
            [
                (row["rank"], row["item"], f"{row['score']:.4f}",
                 *([row["title"] or ""] if titled else []))
                for row in rows
            ],
        )  # fmt: skip
        if len(rows) < self.cfg.k:
            self.console.note(f"note: {len(rows)} instead of {self.cfg.k}: no more are left")


if __name__ == "__main__":
    config.main(recommend, "recommend")
