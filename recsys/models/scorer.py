"""A model as one file that torch alone runs: encoded ids in, probabilities out.

    scorer.pt2    lookup, tables, model and sigmoid, as torch.export writes them
    scorer.json   what goes in and comes out: names, types, shapes, columns, codes

Neither this library nor its C++ kernels are needed where the file is read:

    program = torch.export.load("scorer.pt2").module()
    found = program({"ids": ids, "dense": dense, "seen.values": values, "seen.lengths": lengths})
    found["probability"], found["logit"]

Columns become codes before, by the feature pipeline: it is not in the file. The vocabularies lie in
the saved model as Parquet, row i being code i + 3.

Letters   B rows, F coded columns, N numeric ones, K labels, E values of all lists of a column.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys.data.batch import Batch, Ragged
from recsys.data.encode import EncodedTable, id_dtype
from recsys.data.schema import MISSING, NUM_RESERVED, PADDING, UNSEEN, Schema
from recsys.embedding.lookup import table_of
from recsys.errors import ConfigError
from recsys.models.recommender import Recommender
from recsys.models.saved import SavedModel

PROGRAM = "scorer.pt2"
CARD = "scorer.json"
FORMAT = {"format": "recsys-scorer", "version": 1}


class Scorer(nn.Module):
    """Logits and probabilities of encoded rows, from tensors by name.

    Lists are given as their values end to end and how many each row has.

    Args:
        recommender: In evaluation mode.

    Shape:
        ids               [B, F]  int32 (int64 where a column has more than 2^31 codes)
        dense             [B, N]  float32
        <column>.values   [E]     as ids
        <column>.lengths  [B]     int64
        return            {"logit": [B] or [B, K], "probability": the same}, float32

        A name whose F or N is 0 is left out.

    Raises:
        RuntimeError: a code is outside its column's table, or lengths do not fit the values.
    """

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        self.recommender = recommender
        self.schema = recommender.lookup.schema
        sizes = torch.tensor([field.size or 0 for field in self.schema.coded])
        self._sizes: Tensor
        self.register_buffer("_sizes", sizes, persistent=False)
        self._joined = recommender.model.joined_histories
        self._longest = {
            field.name: field.max_length for field in recommender.lookup.plan.sequences
        }

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = next(t for name, t in inputs.items() if not name.endswith(".values")).shape[0]
        ids, dense = inputs.get("ids"), inputs.get("dense")
        if ids is None:
            ids = torch.empty(rows, 0, dtype=torch.int32)
        else:
            outside = "a code of ids is outside its column's table: see scorer.json for the sizes"
            _check(((ids >= 0) & (ids < self._sizes)).all(), outside)
        if dense is None:
            dense = torch.empty(rows, 0)
        ragged = {field.name: self._lists(field.name, inputs) for field in self.schema.ragged}
        for name in self._joined[1:]:
            alike = ragged[name].lengths == ragged[self._joined[0]].lengths
            _check(alike.all(), f"{name} and {self._joined[0]} differ in their numbers of events")
        logit = self.recommender(Batch(ids, dense, dense.new_empty(0), ragged))
        return {"logit": logit, "probability": logit.sigmoid()}

    def _lists(self, name: str, inputs: dict[str, Tensor]) -> Ragged:
        values, lengths = inputs[f"{name}.values"], inputs[f"{name}.lengths"]
        size = self.recommender.lookup.layout.table(table_of(self.schema[name])).size
        _check(
            ((values >= 0) & (values < size)).all(),
            f"a code of {name}.values is outside its table of {size} codes",
        )
        fits = (lengths >= 0).all() & (lengths.sum() == values.shape[0])
        _check(fits, f"{name}.lengths do not add up to the number of {name}.values")
        longest = self._longest.get(name)
        if longest is not None:
            _check((lengths <= longest).all(), f"a list of {name} has more than {longest} values")
        return Ragged(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))


def _check(fine: Tensor, message: str) -> None:
    """Refuse input; the exported file does so too."""
    torch._assert_async(fine, message)


def inputs_of(rows: EncodedTable) -> dict[str, Tensor]:
    """What a scorer takes, of rows that a pipeline has encoded.

    Example:
        >>> import numpy as np
        >>> lists = (np.array([7, 8, 9], np.int32), np.array([0, 2, 3]))
        >>> rows = EncodedTable(
        ...     np.array([[3], [4]], np.int32), np.zeros((2, 0), np.float32), {"seen": lists}
        ... )
        >>> {name: one.tolist() for name, one in inputs_of(rows).items()}
        {'ids': [[3], [4]], 'seen.values': [7, 8, 9], 'seen.lengths': [2, 1]}
    """
    found = {}
    for name, matrix in (("ids", rows.ids), ("dense", rows.dense)):
        if matrix.shape[1]:
            found[name] = torch.from_numpy(matrix)
    for name, (values, offsets) in rows.ragged.items():
        found[f"{name}.values"] = torch.from_numpy(values)
        found[f"{name}.lengths"] = torch.from_numpy(offsets).diff()
    return found


def export_scorer(saved: SavedModel, folder: Path) -> Path:
    """Write `scorer.pt2` and `scorer.json` into a folder that is there.

    Args:
        saved: A model with tables, full ones or a copy's.
        folder: Where to.

    Returns:
        The path of `scorer.pt2`.

    Raises:
        ConfigError: the model is made of trees, or cannot be exported, and why.
    """
    scorer = Scorer(saved.recommender).eval()
    if saved.recommender.lookup.vocabularies is not None:
        saved.recommender.lookup.vocabularies.freeze()
    example = _example(saved)
    rows = torch.export.Dim("rows", min=1)
    together = {f"{name}.values": 0 for name in saved.joined_histories}
    dims = {}
    for number, name in enumerate(example):
        events = torch.export.Dim(f"list{together.get(name, number + 1)}", min=0)
        dims[name] = {0: events if name.endswith(".values") else rows}
    learnt = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    try:
        with torch.no_grad():
            scorer(example)  # what layouts make once and keep must be there before tracing
            for parameter in learnt:  # nobody asks the file for gradients
                parameter.requires_grad_(False)
            program = torch.export.export(
                scorer, (example,), dynamic_shapes={"inputs": dims}, strict=True
            )
        _forget_places(program)
        torch.export.save(program, folder / PROGRAM)
    except Exception as error:  # torch has no common class for what it cannot trace
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"{saved.spec.class_name} cannot be exported by torch: {reason} Use program=false."
        ) from error
    finally:
        for parameter in learnt:
            parameter.requires_grad_(True)
    (folder / CARD).write_text(json.dumps(card(saved), indent=1))
    return folder / PROGRAM


def _forget_places(program: torch.export.ExportedProgram) -> None:
    """Take out where on this machine each operation came from."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)


def _example(saved: SavedModel) -> dict[str, Tensor]:
    """Rows to trace with: no two sizes are alike, lest torch takes them for one."""
    schema = saved.pipeline.schema
    rows, dtype = len(schema.ragged) + 4, _code_type(schema)
    found: dict[str, Tensor] = {}
    if schema.coded:
        found["ids"] = torch.full((rows, len(schema.coded)), UNSEEN, dtype=dtype)
    if schema.dense:
        found["dense"] = torch.zeros(rows, len(schema.dense))
    joined = saved.joined_histories
    for number, field in enumerate(schema.ragged):
        events = 2 if field.name in joined else number + 3
        found[f"{field.name}.values"] = torch.full((events,), UNSEEN, dtype=dtype)
        found[f"{field.name}.lengths"] = (torch.arange(rows) < events).long()
    return found


def _code_type(schema: Schema) -> torch.dtype:
    return torch.int64 if id_dtype(schema) is np.int64 else torch.int32


def card(saved: SavedModel) -> dict[str, Any]:
    """What `scorer.json` holds."""
    schema, recommender = saved.pipeline.schema, saved.recommender
    ids = str(_code_type(schema)).removeprefix("torch.")
    inputs: dict[str, Any] = {}
    if schema.coded:
        inputs["ids"] = {
            "dtype": ids,
            "shape": ["rows", len(schema.coded)],
            "columns": [{"name": one.name, "codes": one.size} for one in schema.coded],
        }
    if schema.dense:
        inputs["dense"] = {
            "dtype": "float32",
            "shape": ["rows", len(schema.dense)],
            "columns": [{"name": one.name, "encoding": str(one.encoding)} for one in schema.dense],
        }
    for field in schema.ragged:
        size = recommender.lookup.layout.table(table_of(field)).size
        inputs[f"{field.name}.values"] = {
            "dtype": ids,
            "shape": [f"sum of {field.name}.lengths"],
            "codes": size,
        }
        inputs[f"{field.name}.lengths"] = {
            "dtype": "int64",
            "shape": ["rows"],
            "most": field.max_length,
        }
    labels = list(schema.labels)
    shape = ["rows"] if len(labels) == 1 else ["rows", len(labels)]
    return {
        **FORMAT,
        "model": saved.spec.class_name,
        "tables": saved.tables,
        "facts": saved.facts,
        "torch": torch.__version__.split("+")[0],
        "inputs": inputs,
        "outputs": {
            name: {"dtype": "float32", "shape": shape, "labels": labels}
            for name in ("logit", "probability")
        },
        "codes": {
            "padding": PADDING,
            "missing": MISSING,
            "unseen": UNSEEN,
            "first of the vocabulary": NUM_RESERVED,
        },
    }
