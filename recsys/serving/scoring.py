"""A click model, or a model of several labels, behind POST /score.

Requests that wait are scored together. A row's probability is the one `pipelines.evaluate` writes
for it, bit for bit, whichever rows come with it: the codes are the same, the network is the same,
and batches are filled up to whole tiles (`recsys.models.row_tiles`). That last step is a property
of the machine's matrix products, so it is tried out with the model when it is loaded; `exact` says
what came out.

Letters   B rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from recsys.data.encode import EncodedTable
from recsys.data.schema import NUM_RESERVED, Encoding, Field, Kind
from recsys.errors import SchemaError
from recsys.models.row_tiles import largest_difference, probe_rows
from recsys.models.saved import SavedModel, probabilities
from recsys.serving.problems import RequestError
from recsys.serving.row_encoder import RowEncoder
from recsys.serving.row_schema import row_schema
from recsys.serving.rows import RowColumns, RowReader

PROBES = 1200
"""Random rows that a loaded model is tried out with: more than a batch has."""


class Scoring:
    """Scores rows of raw columns.

    Args:
        saved: The model.
        run: What it is called; its own id where the model knows one.
        max_rows: Of one request.
    """

    route = "/score"

    def __init__(self, saved: SavedModel, run: str, max_rows: int) -> None:
        self.saved = saved
        self.run = str(saved.facts.get("run_id") or run)
        self.name = saved.spec.class_name
        self.max_rows = max_rows
        self._reader = RowReader(saved.pipeline.schema, max_rows)
        self._encoder = RowEncoder(saved.pipeline)
        self._outputs = list(saved.named(_no_scores(saved)))
        self.interface: dict[str, Any] = {
            "columns": row_schema(saved.pipeline.schema),
            "scores": self._outputs,
        }
        # Trying it out also builds kernels and vocabularies, so that no client waits for them.
        probes = probe_rows(saved.pipeline.schema, PROBES)
        self.difference = largest_difference(saved.logits_of, probes)
        (first,) = self.answer([self.read(json.dumps(self.example()).encode())[0]])
        if isinstance(first, Exception):
            raise first

    def read(self, body: bytes) -> tuple[RowColumns, int]:
        """Rows of a body, and how many."""
        columns = self._reader.read(body)
        return columns, columns.num_rows

    def answer(self, jobs: Sequence[RowColumns]) -> list[bytes | Exception]:
        """`{"run": ..., "scores": {"probability": [B numbers]}}` of each job.

        Numbers are the float32 probabilities, written as the same float64: reading them back gives
        the bits of either.
        """
        with np.errstate(over="ignore"):  # told below, with its column and row
            try:
                encoded = self._encoder.encode(jobs)
            except SchemaError as error:
                return [RequestError(422, str(error)) for _ in jobs]
        scores = self.saved.named(probabilities(self.saved.logits_of(encoded)))
        finite = np.logical_and.reduce([np.isfinite(one) for one in scores.values()])
        out: list[bytes | Exception] = []
        start = 0
        for job in jobs:
            part = slice(start, start + job.num_rows)
            start += job.num_rows
            if finite[part].all():
                told = {name: one[part].tolist() for name, one in scores.items()}
                out.append(json.dumps({"run": self.run, "scores": told}).encode())
            else:
                out.append(self._not_finite(encoded, part, int(np.argmin(finite[part]))))
        return out

    def _not_finite(self, encoded: EncodedTable, part: slice, row: int) -> RequestError:
        dense = encoded.dense[part.start + row]
        names = [one.name for one in self.saved.pipeline.schema.dense]
        column = names[int(np.argmax(np.abs(np.nan_to_num(dense, nan=np.inf))))] if names else None
        return RequestError(
            422,
            f'row {row} has no finite score: the number in "{column}" is too far from those of '
            "training. Replace it by one that is possible, or by null.",
            column=column,
            row=row,
        )

    def example(self) -> dict[str, Any]:
        """One row, of the most frequent values."""
        return {"rows": [{one.name: self._typical(one) for one in self.saved.pipeline.schema}]}

    def _typical(self, one: Field) -> Any:
        pipeline = self.saved.pipeline
        if one.kind is Kind.NUMERIC:
            scale = pipeline.scales[one.name]
            middle = scale.edges[len(scale.edges) // 2] if scale.edges else scale.mean
            if one.encoding is Encoding.LOG:
                middle = float(np.sign(middle) * np.expm1(np.abs(middle)))
            return round(middle) if one.dtype == "int" else round(middle, 4)
        value = _blank(one)
        if one.encoding is Encoding.VOCABULARY and (one.size or 0) > NUM_RESERVED:
            value = pipeline.tokens(one.name)[NUM_RESERVED].as_py()
        return [value] if one.is_ragged else value

    def facts(self) -> dict[str, Any]:
        """Whether the promise of equal bits holds here, and the most by which it does not."""
        return {"exact": self.difference == 0, "largest_difference_of_logits": self.difference}

    def request_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "required": ["rows"],
            "additionalProperties": False,
            "properties": {
                "rows": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": self.max_rows,
                    "items": self.interface["columns"],
                }
            },
        }

    def answer_schema(self) -> dict[str, Any]:
        numbers = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}
        return {
            "type": "object",
            "required": ["run", "scores"],
            "additionalProperties": False,
            "properties": {
                "run": {"type": "string"},
                "scores": {
                    "type": "object",
                    "description": "A list for each label, in the order of the rows.",
                    "required": self._outputs,
                    "additionalProperties": False,
                    "properties": dict.fromkeys(self._outputs, numbers),
                },
            },
        }


def _no_scores(saved: SavedModel) -> np.ndarray:
    tasks = len(saved.pipeline.schema.labels)
    return np.empty((0,) if tasks == 1 else (0, tasks), np.float32)


def _blank(one: Field) -> Any:
    return {"string": "", "int": 0, "float": 0.0, "bool": False}[one.dtype]
