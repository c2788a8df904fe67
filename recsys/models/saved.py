"""A trained model as a folder: raw columns in, probabilities out.

    model/
        model.json           what to build: class, hyperparameters, embedding options, and how the
                             numbers of the tables are kept where it is a smaller copy
        weights.safetensors  tables by name, and everything else; or trees.txt, of boosted trees
        pipeline/            the fitted feature pipeline

Nothing in it is pickled, and loading it runs no code but this library's.

Letters   B rows, K labels.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recsys.data.atomic import atomic_folder
from recsys.data.encode import EncodedTable, FeaturePipeline, Raw, arrow_table
from recsys.embedding.compact_rows import FORMATS, check_format
from recsys.embedding.compact_storage import CompactStorage, CompactTables
from recsys.embedding.dynamic_vocabulary import STATE as VOCABULARY
from recsys.embedding.layout import PrunedLayout
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.storage import DenseStorage
from recsys.errors import CheckpointError, ConfigError
from recsys.models.base import ModelInputs
from recsys.models.recommender import Recommender
from recsys.models.registry import call, import_target
from recsys.models.row_tiles import whole_tiles

PLAUSIBLE_FIELDS = 64
"""Fields to build a model for while the data is unread."""
FORMAT = {"format": "recsys-model", "version": 1}
WEIGHTS = "weights.safetensors"
SIGMOID_LANES, SIGMOID_BLOCK = 64, 16_384
"""Numbers that torch computes alike, by the widest registers; and that it gives to one thread."""
FULL = "float32"
"""How the numbers of a trained model's tables are kept."""


@dataclass(frozen=True)
class ModelSpec:
    """How to build the interaction model: what a configuration's `ctr` node says."""

    family: str
    target: str
    """`recsys.models.<family>.<stem>.<Class>`"""
    arguments: Mapping[str, Any]

    @property
    def stem(self) -> str:
        """File name of the model, without suffix."""
        return self.target.split(".")[-2]

    @property
    def class_name(self) -> str:
        """Name as the paper spells it."""
        return self.target.rpartition(".")[2]

    @property
    def pools_histories(self) -> bool:
        """False when the model reads whole histories."""
        return not getattr(import_target(self.target), "needs_history", False)

    @property
    def needs_fields(self) -> bool:
        """False when the model reads only first-order weights."""
        return bool(getattr(import_target(self.target), "needs_fields", True))

    @property
    def separate_tables(self) -> bool:
        """True when each label has vectors of its own."""
        return bool(getattr(import_target(self.target), "separate_tables", False))

    @property
    def boosted(self) -> bool:
        """True when the model is made of trees, without embeddings."""
        return bool(getattr(import_target(self.target), "boosted", False))

    def make_boosted(self) -> Any:
        """Build a boosted model, which nothing in the schema sizes.

        Raises:
            ConfigError: a hyperparameter is unknown or impossible.
        """
        return call(import_target(self.target), dict(self.arguments), {}, self.family)

    def make(self, inputs: ModelInputs) -> Any:
        """Build the model for what the schema dictates.

        Raises:
            ConfigError: a hyperparameter is unknown or impossible.
        """
        cls = import_target(self.target)
        wanted = inspect.signature(cls).parameters
        given = {k: v for k, v in vars(inputs).items() if k in wanted}
        return call(cls, dict(self.arguments), given, self.family)

    def check(self, embed_dim: int) -> None:
        """Raise ConfigError for hyperparameters that no data could make possible, before any data
        is read; costs no memory."""
        with torch.device("meta"):
            self.make(ModelInputs(num_fields=PLAUSIBLE_FIELDS, embed_dim=embed_dim, num_dense=0))


class BoostedTrees(Protocol):
    """What is needed of trees here."""

    def logits_of(self, encoded: EncodedTable) -> np.ndarray: ...

    def save(self, folder: Path) -> None: ...


class SavedModel:
    """A trained model with the pipeline that feeds it.

    Args:
        model: A network with its tables, in evaluation mode, on a CPU; or trees.
        pipeline: Encodes raw rows as in training.
        spec: What the model is.
        facts: Run id, data set, digest: shown, never used.
    """

    def __init__(
        self,
        model: Recommender | BoostedTrees,
        pipeline: FeaturePipeline,
        spec: ModelSpec,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model.eval() if isinstance(model, Recommender) else model
        self.pipeline = pipeline
        self.spec = spec
        self.facts = dict(facts or {})

    @property
    def joined_histories(self) -> tuple[str, ...]:
        """Fields that only make a row when they change together."""
        return self.model.model.joined_histories if isinstance(self.model, Recommender) else ()

    @property
    def recommender(self) -> Recommender:
        """The network with its tables.

        Raises:
            ConfigError: the model is made of trees.
        """
        if not isinstance(self.model, Recommender):
            raise ConfigError(
                f"{self.spec.class_name} is made of trees: it has no embeddings and explains "
                "nothing by itself. Choose the run of another model."
            )
        return self.model

    @property
    def tables(self) -> str:
        """How the numbers of its tables are kept: float32, or a format of `compact_rows`."""
        return self.model.lookup.storage.format if isinstance(self.model, Recommender) else FULL

    def with_tables(self, tables: str) -> SavedModel:
        """A copy whose tables take fewer bytes; all else is as it was. It predicts, and is saved
        and loaded as any other; it cannot be trained.

        Args:
            tables: One of `recsys.embedding.compact_rows.FORMATS`.

        Raises:
            ConfigError: there is no such format, a number of the tables does not fit it, or the
                model has no tables, or is such a copy already.
        """
        check_format(tables)
        whole = self.recommender
        if self.tables != FULL:
            raise ConfigError(
                f"this model is a copy with {self.tables} tables already; another rounding would "
                f"add to its error. Name the run it was made of, {self.facts.get('run_id')}."
            )
        layout = whole.lookup.layout
        kept = layout.kept() if isinstance(layout, PrunedLayout) else None
        made = _build(self.spec, self.pipeline, self._options(whole), tables, kept)
        made.model.load_state_dict(whole.model.state_dict())
        with torch.no_grad():
            made.lookup.numeric.copy_(whole.lookup.numeric)
        made.lookup.take_vocabularies(whole.lookup)
        storage = made.lookup.storage
        assert isinstance(storage, CompactStorage)
        storage.fill(whole.lookup.storage.table())
        return SavedModel(made, self.pipeline, self.spec, self.facts)

    def _options(self, recommender: Recommender) -> EmbeddingOptions:
        """The width that was asked for: building multiplies it again."""
        options = recommender.lookup.options
        if self.spec.separate_tables:
            labels = len(self.pipeline.schema.labels)
            options = dataclasses.replace(options, dim=options.dim // labels)
        return options

    def predict_logits(self, table: Raw, block: int = 16384) -> np.ndarray:
        """Logits of raw rows: a table, a frame or a mapping of columns; extra columns are ignored.

        Shape:
            return [B] float32, or [B, K] of a model of several labels

        Raises:
            SchemaError: a column is missing or holds what it may not.
        """
        rows = arrow_table(table)
        tasks = len(self.pipeline.schema.labels)
        shape = (rows.num_rows,) if tasks == 1 else (rows.num_rows, tasks)
        out = np.empty(shape, dtype=np.float32)
        for start in range(0, rows.num_rows, block):
            encoded = self.pipeline.transform(rows.slice(start, block))
            out[start : start + len(encoded)] = self.logits_of(encoded)
        return out

    @torch.no_grad()
    def logits_of(self, encoded: EncodedTable) -> np.ndarray:
        """Logits of rows that this model's pipeline has encoded, [B] or [B, K] float32."""
        if isinstance(self.model, Recommender):
            return self.model(whole_tiles(encoded).to_batch()).numpy()[: len(encoded)]
        return self.model.logits_of(encoded)

    def predict(self, table: Raw) -> np.ndarray:
        """Probabilities of raw rows, [B] or [B, K] float32."""
        return probabilities(self.predict_logits(table))

    def named(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities by column: `probability`, or `probability_<label>` of several labels."""
        if scores.ndim == 1:
            return {"probability": scores}
        columns = zip(self.pipeline.schema.labels, scores.T, strict=True)
        return {f"probability_{label}": np.ascontiguousarray(one) for label, one in columns}

    def save(self, folder: Path) -> Path:
        """Write the folder, whole or not at all."""
        options = self._options(self.model) if isinstance(self.model, Recommender) else None
        card = {
            **FORMAT,
            "model": dataclasses.asdict(self.spec),
            "embedding": None if options is None else options.card(),
            "facts": self.facts,
        }
        if self.tables != FULL:
            card["tables"] = self.tables
        with atomic_folder(folder) as temporary:
            if isinstance(self.model, Recommender):
                save_file(weights_of(self.model), temporary / WEIGHTS)
            else:
                self.model.save(temporary)
            (temporary / "model.json").write_text(json.dumps(card, indent=1))
            self.pipeline.save(temporary / "pipeline")
        return folder

    @classmethod
    def load(cls, folder: Path) -> SavedModel:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the folder is missing, incomplete, damaged or of another version.
        """
        folder = Path(folder)
        card = read_card(folder, FORMAT)
        spec = ModelSpec(**card["model"])
        boosted = spec.boosted
        try:
            weights = {} if boosted else load_file(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise no_model(folder, error) from error
        pipeline = FeaturePipeline.load(folder / "pipeline")
        if boosted:
            trees = spec.make_boosted().load(folder, pipeline.schema)
            return cls(trees, pipeline, spec, card["facts"])
        kept = {
            name.removeprefix("tables.").removesuffix(".kept"): mask
            for name, mask in weights.items()
            if name.startswith("tables.") and name.endswith(".kept")
        }
        options = EmbeddingOptions(**card["embedding"])
        recommender = _build(spec, pipeline, options, card.get("tables", FULL), kept)
        try:
            recommender.load_tensors(weights)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the weights in {folder} do not fit its card: {error}"
            ) from error
        return cls(recommender, pipeline, spec, card["facts"])


def read_card(folder: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a saved model, `model.json`.

    Args:
        folder: Of the model.
        expected: The format and version that the caller reads.

    Raises:
        CheckpointError: there is none, or it is of another format or version.
    """
    try:
        card: dict[str, Any] = json.loads((folder / "model.json").read_text())
    except (OSError, ValueError) as error:
        raise no_model(folder, error) from error
    if any(card.get(key) != value for key, value in expected.items()):
        raise CheckpointError(
            f"{folder} holds a {card.get('format')} of version {card.get('version')}; this program "
            f"reads here a {expected['format']} of version {expected['version']}. Export it again "
            "with the version that wrote it."
        )
    return card


def no_model(folder: Path, error: Exception) -> CheckpointError:
    """What to raise where a folder does not hold what a saved model has."""
    return CheckpointError(
        f"{folder} is not a saved model: {error}. Name a run that finished, or its output folder."
    )


def _build(
    spec: ModelSpec,
    pipeline: FeaturePipeline,
    options: EmbeddingOptions,
    tables: str,
    kept: Mapping[str, torch.Tensor] | None,
) -> Recommender:
    """A model whose numbers are still to be filled in."""
    compact = CompactTables(tables, options.dim if spec.needs_fields else 0)
    return Recommender.build(
        pipeline.schema,
        options,
        spec.make,
        DenseStorage if tables == FULL else compact,
        spec.pools_histories,
        spec.needs_fields,
        kept,
        spec.separate_tables,
    )


def weights_of(recommender: Recommender) -> dict[str, torch.Tensor]:
    """What prediction needs, without the state of optimisers."""
    read = (".weight", ".kept", *(f".{name}" for name in FORMATS))
    ids = f".{VOCABULARY}."
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in recommender.tensors().items()
        if not name.startswith("tables.") or name.endswith(read) or ids in name
    }


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The sigmoid every scorer of this library uses, so that all of them agree to the bit.

    torch computes the last few numbers of an array, and of every thread's share of a long one, by
    another formula than the rest. So there are no last few, and no shares, here.

    Shape:
        logits  any, float32
        return  the same
    """
    flat = torch.from_numpy(np.ascontiguousarray(logits)).reshape(-1)
    out = torch.empty_like(flat)
    for part, into in zip(flat.split(SIGMOID_BLOCK), out.split(SIGMOID_BLOCK), strict=True):
        whole = torch.nn.functional.pad(part, (0, -len(part) % SIGMOID_LANES))
        into.copy_(whole.sigmoid()[: len(part)])
    return out.reshape(logits.shape).numpy()
