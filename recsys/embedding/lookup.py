"""EmbeddingLookup: the one place where ids become vectors.

Letters   B rows, F slots, D embedding width, N dense columns, P events of a batch's histories,
          W storage width: [vector D | second vector D | first-order weight 1], the last two only
          where the model wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch, Ragged
from recsys.data.schema import NUM_RESERVED, Field, Kind, Schema
from recsys.embedding.compact_storage import CompactTables
from recsys.embedding.dynamic_vocabulary import DynamicVocabularies
from recsys.embedding.embedded import Embedded, History
from recsys.embedding.layout import Layout, PrunedLayout
from recsys.embedding.options import EmbeddingOptions as EmbeddingOptions
from recsys.embedding.row_gates import RowGates
from recsys.embedding.sharded_storage import ShardedStorage, Sharding
from recsys.embedding.storage import DenseStorage, Storage
from recsys.errors import ConfigError, SchemaError


@dataclass(frozen=True)
class SlotPlan:
    """Which slots a schema gives, before any table exists: a model is sized by it."""

    names: tuple[str, ...]
    """Slots in schema order, `field` or `field.k` for the k-th lookup."""
    order: tuple[int, ...]
    """Where each slot stands in [coded | bags | numeric], the order in which vectors are made."""
    coded: tuple[str, ...]
    bagged: tuple[Field, ...]
    """Lists that become one mean vector."""
    sequences: tuple[Field, ...]
    """Histories that stay sequences."""
    num_vectors: int
    """Numeric columns with a vector of their own."""
    num_dense: int

    @property
    def num_fields(self) -> int:
        return len(self.names)

    @classmethod
    def of(
        cls, schema: Schema, layout: Layout, numeric: str, pool_histories: bool = True
    ) -> SlotPlan:
        """Plan the slots of a fitted schema."""
        coded = tuple(field.name for field in schema.coded)
        bagged = tuple(f for f in schema.ragged if f.kind is Kind.MULTIVALUED or pool_histories)
        sequences = tuple(f for f in schema.ragged if f not in bagged)
        for field in sequences:
            if field.shares is None:
                raise SchemaError(
                    f'history "{field.name}" has no target field; set data.fields.{field.name}.'
                    "shares to the categorical field it is a history of."
                )
        vectors = len(schema.dense) if numeric == "vector" else 0
        found = [(n, k) for n in coded for k in range(layout.table(n).lookups)]
        found += [(f.name, k) for f in bagged for k in range(layout.table(table_of(f)).lookups)]
        found += [(f.name, 0) for f in schema.dense[:vectors]]
        rank = {name: i for i, name in enumerate(schema.names)}
        order = sorted(range(len(found)), key=lambda i: (rank[found[i][0]], found[i][1]))
        several = {name for name, k in found if k > 0}
        names = tuple(f"{n}.{k}" if n in several else n for n, k in (found[i] for i in order))
        num_dense = len(schema.dense) - vectors
        return cls(names, tuple(order), coded, bagged, sequences, vectors, num_dense)


def table_of(field: Field) -> str:
    """Name of the table that holds a field's vectors."""
    return field.shares or field.name


class EmbeddingLookup(nn.Module):
    """`Batch -> Embedded`: owns every table, and nothing else knows where a vector lies.

    Args:
        schema: Fitted schema.
        options: Layout, width and initialisation.
        make_storage: `(num_rows, width) -> Storage`; the optimiser decides which.
        linear: Add a first-order weight per slot (`Embedded.linear`).
        second: Add a second vector per slot (`Embedded.second`).
        pool_histories: True gives each history one mean-pooled slot in `fields`; False leaves the
            sequence in `Embedded.history` beside its `target`.
        vectors: False leaves only the first-order weights: `fields` is [B, F, 0].
        kept: Table name -> the rows that a gate left in it (see `PrunedLayout`); None for all.

    Raises:
        ConfigError: the options do not fit the schema.
        SchemaError: a code is outside its table.
    """

    def __init__(
        self,
        schema: Schema,
        options: EmbeddingOptions,
        make_storage: Callable[[int, int], Storage],
        *,
        linear: bool = False,
        second: bool = False,
        pool_histories: bool = True,
        vectors: bool = True,
        kept: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.schema = schema
        self.options = options
        self.embed_dim = options.dim if vectors else 0
        self.linear = linear
        self.second = second
        self.layout = options.build_layout(schema)
        self.vocabularies = DynamicVocabularies.of(schema, options) if options.is_dynamic else None
        if kept:
            self.layout = PrunedLayout(self.layout, kept)
        width = self.embed_dim * (1 + int(second)) + int(linear)
        self.plan = SlotPlan.of(schema, self.layout, options.numeric, pool_histories)
        if not isinstance(make_storage, Sharding):  # a plan says for itself whether it fits
            row_bytes = (
                make_storage.row_bytes(width)
                if isinstance(make_storage, CompactTables)
                else width * 4
            )
            check_memory(self.layout.num_rows * row_bytes, options.layout)
        self.storage = make_storage(self.layout.num_rows, width)
        if isinstance(self.storage, ShardedStorage):
            self.storage.arrange(self.layout.ranges, *self._read_tables())
        self.storage.initialize(options.init_std)
        self.gates: RowGates | None = None

        self.numeric = nn.Parameter(torch.randn(self.plan.num_vectors, width) * options.init_std)
        self._order: Tensor | None
        in_order = self.plan.order == tuple(range(len(self.plan.order)))
        self.register_buffer(
            "_order", None if in_order else torch.tensor(self.plan.order), persistent=False
        )
        sizes = [field.size or 0 for field in options.sized(schema).coded]
        self._sizes: Tensor
        self.register_buffer("_sizes", torch.tensor(sizes), persistent=False)

    def forward(self, batch: Batch) -> Embedded:
        """Look every id of the batch up, in one call of the storage.

        Shape:
            batch.ids  [B, F coded]
            return     Embedded with fields [B, F, D], dense [B, N], linear [B, F] or None
        """
        num_rows = len(batch)
        if self.vocabularies is not None:
            batch = self.vocabularies(batch)
        self._check_codes(batch.ids)
        rows = self.layout.rows(batch.ids, self.plan.coded) if self.plan.coded else batch.ids.long()
        sequences = []
        for field in self.plan.sequences:
            table, codes = table_of(field), batch.ragged[field.name].values
            lookups = range(self.layout.table(table).lookups)
            sequences += [self.layout.rows_of(codes, table, k) for k in lookups]
        if isinstance(self.storage, ShardedStorage):
            self._check_lists(batch)
            lists = self._lists(batch)
            singles, pieces, by_bag = self.storage.read(rows, lists, sequences)
            sums = None if by_bag is None else by_bag.transpose(0, 1)
        else:
            parts = [rows.reshape(-1), *sequences]
            bags = self._bags(batch)
            flat_rows = torch.cat(parts) if len(parts) > 1 else parts[0]
            if self.gates is None:
                flat, sums = self.storage(flat_rows, *(bags or (None, None)))
            else:
                flat, sums = self.gates.read(self.storage, flat_rows, *(bags or (None, None)))
            first, *pieces = flat.split([part.numel() for part in parts])
            singles = first.view(num_rows, rows.shape[1], flat.shape[1])
        width = singles.shape[2]
        slots = [singles]
        if sums is not None:
            slots.append(self._mean(sums, batch))
        dense = batch.dense
        if self.numeric.shape[0]:
            slots.append(dense.unsqueeze(-1) * self.numeric)
            dense = dense[:, :0]
        vectors = torch.cat(slots, dim=1) if len(slots) > 1 else slots[0]
        if self._order is not None:
            vectors = vectors.index_select(1, self._order)
        dim = self.embed_dim
        embedded = Embedded(
            fields=vectors if width == dim else vectors[..., :dim],
            dense=dense,
            linear=vectors[..., -1] if self.linear else None,
            second=vectors[..., dim : 2 * dim] if self.second else None,
        )
        if self.plan.sequences:
            self._add_histories(embedded, pieces, batch)
        return embedded

    @torch.no_grad()
    def admit(self, batch: Batch) -> Tensor | None:
        """Before a training step on a batch: give rows to the ids that are due one.

        Returns:
            Storage rows that were drawn anew, for optimisers to forget what they knew of them; None
            where there are none.
        """
        if self.vocabularies is None:
            return None
        weights, born = self.storage.table(), []
        for name, fresh, vectors in self.vocabularies.admit(batch, self.storage.width):
            rows = (fresh + self.layout.range_of(name).start + (NUM_RESERVED - 1)).to(
                weights.device
            )
            weights[rows] = vectors.to(weights)
            born.append(rows)
        return torch.cat(born) if born else None

    @torch.no_grad()
    def take_vocabularies(self, other: EmbeddingLookup) -> None:
        """Copy the ids, and what rows they have, of a lookup that is built alike."""
        if self.vocabularies is None or other.vocabularies is None:
            return
        theirs = other.vocabularies.tables_state()
        for name, tensor in self.vocabularies.tables_state().items():
            tensor.copy_(theirs[name])
        self.vocabularies.rebuild()

    def _read_tables(self) -> tuple[list[str], list[str], list[str]]:
        """Tables of the storage that columns, pooled lists and sequences read, lookup by lookup."""

        def names(fields: Iterable[str]) -> list[str]:
            return [
                self.layout.range_of(name).name
                for name in fields
                for _ in range(self.layout.table(name).lookups)
            ]

        bagged, sequences = (map(table_of, f) for f in (self.plan.bagged, self.plan.sequences))
        return names(self.plan.coded), names(bagged), names(sequences)

    def _lists(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Rows and offsets of every pooled list, lookup by lookup, field by field."""
        found = []
        for field in self.plan.bagged:
            ragged, table = batch.ragged[field.name], table_of(field)
            for k in range(self.layout.table(table).lookups):
                found.append((self.layout.rows_of(ragged.values, table, k), ragged.offsets))
        return found

    def _bags(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """The pooled lists end to end."""
        rows, offsets, total = [], [], 0
        for list_rows, list_offsets in self._lists(batch):
            rows.append(list_rows)
            offsets.append(list_offsets[:-1] + total)
            total += list_rows.shape[0]
        if not rows:
            return None
        end = torch.full((1,), total, dtype=torch.int64, device=rows[0].device)
        return torch.cat(rows), torch.cat([*offsets, end])

    def _mean(self, sums: Tensor, batch: Batch) -> Tensor:
        """Bag sums [bags * B, W] or [bags, B, W] to means [B, bags, W]; an empty list is a zero
        vector."""
        lengths = []
        for field in self.plan.bagged:
            counts = batch.ragged[field.name].lengths.clamp(min=1)
            lengths += [counts] * self.layout.table(table_of(field)).lookups
        by_bag = sums.view(len(lengths), len(batch), sums.shape[-1])
        means = by_bag / torch.stack(lengths).unsqueeze(-1)
        return means.transpose(0, 1)

    def _add_histories(self, embedded: Embedded, pieces: Sequence[Tensor], batch: Batch) -> None:
        """Fill `history` and `target`; the lookups of a field stand side by side."""
        taken = 0
        for field in self.plan.sequences:
            table, ragged = table_of(field), batch.ragged[field.name]
            lookups = self.layout.table(table).lookups
            parts = [piece[:, : self.embed_dim] for piece in pieces[taken : taken + lookups]]
            taken += lookups
            values = torch.cat(parts, dim=1) if lookups > 1 else parts[0]
            longest = self._longest(field, ragged)
            embedded.history[field.name] = History(values, ragged.offsets, longest)
            slots = [table] if lookups == 1 else [f"{table}.{k}" for k in range(lookups)]
            target = [embedded.fields[:, self.plan.names.index(slot)] for slot in slots]
            embedded.target[field.name] = torch.cat(target, dim=-1)

    @staticmethod
    def _longest(field: Field, lists: Ragged) -> int:
        """Events of the longest history of a batch; of any batch while the model is exported, when
        no number of this one may be looked at."""
        if torch.compiler.is_exporting() and field.max_length is not None:
            return field.max_length
        return max(1, int(lists.lengths.max())) if lists.offsets.shape[0] > 1 else 1

    def _check_codes(self, ids: Tensor) -> None:
        """Range-check on a CPU, where it is free; on a GPU ids are trusted, since a check would
        wait for the device (they are checked when data is prepared). An exported model has checks
        of its own."""
        if ids.is_cuda or torch.compiler.is_exporting() or not ids.numel():
            return
        highest, lowest = ids.amax(0), ids.amin(0)
        bad = ((highest >= self._sizes) | (lowest < 0)).nonzero()
        if bad.numel():
            column = int(bad[0])
            field = self.schema[self.plan.coded[column]]
            code = (
                int(highest[column])
                if highest[column] >= self._sizes[column]
                else int(lowest[column])
            )
            raise SchemaError(_outside(field.name, code, field.size))

    def _check_lists(self, batch: Batch) -> None:
        """The same for lists, where a wrong id would be another process's row."""
        for field in (*self.plan.bagged, *self.plan.sequences):
            values, size = batch.ragged[field.name].values, self.layout.table(table_of(field)).size
            if values.is_cuda or not values.numel():
                continue
            for code in (int(values.max()), int(values.min())):
                if not 0 <= code < size:
                    raise SchemaError(_outside(field.name, code, size))

    @torch.no_grad()
    def field_vectors(self, name: str) -> Tensor:
        """Vectors of all tokens of a field in code order, reserved codes left out.

        Shape:
            return [size - 3, D * lookups]
        """
        field = self.schema[name]
        table = self.layout.table(table_of(field))
        codes = torch.arange(NUM_RESERVED, table.size)
        weights = self.storage.table()
        return torch.cat(
            [
                weights[self.layout.rows_of(codes, table.name, k)][:, : self.embed_dim]
                for k in range(table.lookups)
            ],
            dim=1,
        )

    def tables_state(self) -> dict[str, Tensor]:
        """Weights and fused optimiser state by TABLE name, so that a checkpoint outlives its layout
        in memory: `<table>.weight` (or, of compact tables, `<table>.<format>`) and
        `<table>.<state>`. Views, not copies.

        Layouts that share rows between fields have one table named after the layout. Sharded tables
        are not here: no process has them (`ShardedStorage.parts`).
        """
        if isinstance(self.storage, ShardedStorage):
            return {}
        tensors = {**self.storage.weights(), **self.storage.optimizer_state()}
        if self.gates is not None:
            tensors["gate"] = self.gates.logits.detach()
        if self.layout.shared:
            return {f"{self.layout.name}.{key}": value for key, value in tensors.items()}
        state = {}
        for table, start, span in zip(
            self.layout.tables, self.layout.starts, self.layout.spans, strict=True
        ):
            for key, value in tensors.items():
                state[f"{table.name}.{key}"] = value[start : start + span]
        if self.vocabularies is not None:
            state |= self.vocabularies.tables_state()
        if isinstance(self.layout, PrunedLayout):
            state |= {f"{name}.kept": mask for name, mask in self.layout.kept().items()}
        return state

    @torch.no_grad()
    def load_tables_state(self, state: dict[str, Tensor]) -> None:
        """Copy tables saved by `tables_state` in; names and shapes must agree.

        Raises:
            KeyError: a table is missing or unexpected.
            ValueError: a table has other rows or another width.
        """
        if isinstance(self.storage, ShardedStorage):
            self.storage.fill({k: self._without_padding(v, k) for k, v in state.items()})
            return
        mine = self.tables_state()
        if mine.keys() != state.keys():
            missing = sorted(mine.keys() - state.keys())
            extra = sorted(state.keys() - mine.keys())
            raise KeyError(f"embedding tables differ: missing {missing}, unexpected {extra}")
        for name, tensor in mine.items():
            if tensor.shape != state[name].shape:
                raise ValueError(
                    f"embedding table {name} is {list(state[name].shape)} in the checkpoint and "
                    f"{list(tensor.shape)} here"
                )
            tensor.copy_(state[name])
        if self.vocabularies is not None:
            self.vocabularies.rebuild()

    def _without_padding(self, whole: Tensor, name: str) -> Tensor:
        """A table as its own rows: those of all fields are saved with the padding's before them."""
        return whole[1:] if self.layout.shared and name.startswith(self.layout.name) else whole

    @torch.no_grad()
    def prune(self) -> None:
        """Leave only the rows whose hard gate is open, multiplied by it, and forget the gates: the
        lookup then gives what it gave, out of a smaller table that no optimiser knows."""
        assert self.gates is not None, "there are no gates to prune by"
        kept = self.gates.kept
        assert kept is not None, "only hard gates can prune"
        rows = kept.nonzero().squeeze(1)
        gated = self.storage.table()[rows] * self.gates(rows).unsqueeze(1)
        layout = self.layout
        ranges = zip(layout.tables, layout.starts, layout.spans, strict=True)
        masks = {table.name: kept[at : at + span] for table, at, span in ranges}
        self.layout = PrunedLayout(layout, masks).to(gated.device)
        self.storage = DenseStorage(self.layout.num_rows, gated.shape[1], gated.device)
        self.storage.table()[1:] = gated
        self.gates = None

    def memory(self, optimizer_floats: float = 0.0) -> dict[str, int]:
        """Bytes of weights, optimiser state, and the copy that serves.

        Args:
            optimizer_floats: State that an optimiser outside the storage keeps per weight.
        """
        if isinstance(self.storage, ShardedStorage):
            placed = int(sum(one.mebibytes for one in self.storage.placement) * 2**20)
            weights = self.storage.num_weights * 4
            return {"weights": weights, "optimizer": placed - weights, "serving": weights}
        fused = sum(t.nbytes for t in self.storage.optimizer_state().values())
        weights = sum(t.nbytes for t in self.storage.weights().values())
        serving = weights
        if isinstance(self.layout, PrunedLayout):
            serving += self.layout.row_of.numel() * self.layout.row_of.element_size()
        if self.vocabularies is not None:
            serving += self.vocabularies.num_bytes
        return {
            "weights": weights,
            "optimizer": fused + int(weights * optimizer_floats),
            "serving": serving,
        }

    def dense_parameters(self) -> list[nn.Parameter]:
        """Parameters outside the tables."""
        return [self.numeric] if self.numeric.numel() else []


def _outside(name: str, code: int, size: int | None) -> str:
    return (
        f'field "{name}" has id {code} but its table holds {size} rows; ids must be in '
        f"[0, {size}). The data was encoded with another pipeline: prepare it again with "
        "data.rebuild=true."
    )


def check_memory(weight_bytes: int, layout: str, available: int | None = None) -> None:
    """Refuse tables that cannot fit, before the machine starts to swap.

    Args:
        weight_bytes: Bytes of the weights alone; their update needs at least as much again.
        layout: The layout in use, for the remedy.
        available: Free bytes; None asks the system.

    Raises:
        ConfigError: naming the need, what there is, and a ratio that would fit.
    """
    if available is None:
        import psutil

        available = int(psutil.virtual_memory().available)
    if weight_bytes <= available:
        return
    gib = 2**30
    ratio = max(available / weight_bytes / 4, 1e-6)
    hint = f"embedding.ratio={ratio:.2g}"
    raise ConfigError(
        f"the embedding tables need {weight_bytes / gib:.1f} GiB and {available / gib:.1f} GiB of "
        f"memory are free. Use {hint if layout != 'full' else f'embedding=multiplexed {hint}'}, "
        "a smaller embedding.dim, a higher data.min_count, or more machines."
    )
