"""Two towers, trained to find a user's item among the other items of its batch.

Source   Yi et al., RecSys 2019, doi:10.1145/3298689.3346996, Eq. 2-6 and Algorithm 2; negatives
         from the whole catalogue: Yang et al., WWW 2020 Companion, doi:10.1145/3366424.3386195.
Differs  An item of a batch counts once, corrected by the probability that it is there at all, and
         a row's own item is not corrected; `recsys.layers.sampled_softmax` says why. The estimated
         frequency has a place for each item instead of hashed ones: the catalogue is in memory.
         Rewards are all 1.
Shapes   B rows, P distinct users and Q distinct items of a batch, D embedding width, O output
         width, I items.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.data.interactions import ITEM, USER
from recsys.data.pairs import Pairs
from recsys.data.side_tables import SideTables
from recsys.data.triple_sampler import Sampling
from recsys.data.triples import Triples
from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.mlp import HiddenLayers, check_dropout, check_hidden_dims, init_linear
from recsys.layers.sampled_softmax import log_inclusion, sampled_softmax
from recsys.layers.spectral_start import spectral_start
from recsys.models.two_sided import TowersModel, embedding_options

CORRECTIONS = ("exact", "estimated", "none")
STARTS = ("random", "spectral")


class Tower(nn.Module):
    """Vectors of the fields to one vector: their sum, or what hidden layers make of them.

    Args:
        num_fields: F.
        embed_dim: D.
        hidden_dims: Widths of the layers, the last one linear; empty: the sum of the fields, which
            for an id alone is its vector.
        dropout: Probability after each activation.

    Shape:
        fields  [B, F, D]
        return  [B, O]
    """

    def __init__(
        self, num_fields: int, embed_dim: int, hidden_dims: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.layers: nn.Sequential | None = None
        if hidden_dims:
            check_hidden_dims(hidden_dims)
            *inner, out_dim = hidden_dims
            width = num_fields * embed_dim
            layers: list[nn.Module] = []
            if inner:
                layers.append(HiddenLayers(width, inner, dropout=dropout))
                width = inner[-1]
            layers.append(nn.Linear(width, out_dim))
            init_linear(layers[-1])
            self.layers = nn.Sequential(*layers)

    def forward(self, embedded: Embedded) -> Tensor:
        if self.layers is None:
            return embedded.fields.sum(1)
        out: Tensor = self.layers(embedded.flat())
        return out


class TwoTower(TowersModel):
    """Each pair's item against the other items of the batch, by cosine or dot product.

    Args:
        train: The pairs to learn from.
        tables: What is known of users and items; None: nothing but the ids.
        user_fields: Columns that the user tower reads, `user` is the id; None for all.
        item_fields: Columns that the item tower reads, `item` is the id; None for all.
        history: The user tower reads the mean vector of the user's training items in place of the
            id; of a row to learn from, without the item that is to be found.
        embed_dim: Width of the vector of a value, D.
        layout: full, hashed, multiplexed: where these vectors lie.
        ratio: Bytes of the vectors as a share of the full layout's.
        hidden_dims: Widths of each tower's layers, the last of them O; empty: the vectors of the
            fields are added up.
        dropout: Probability after each hidden activation.
        normalize: Vectors of length 1, so that scores are cosines.
        temperature: What scores are divided by in the loss.
        correction: Of items by how likely they are in a batch. exact: from the number of their
            pairs; estimated: from the batches between two in which they are, as they come; none.
        estimate_rate: Weight of the newest such interval.
        uniform_negatives: Items drawn from the whole catalogue for each batch.
        mask_known: A user's other training items are no negatives of its rows.
        unseen_share: Share of the users and items of a batch whose id reads as unseen: their other
            columns learn to speak for those that are new.
        l2: Weight of the squared vectors that a batch reads, per row.
        init_std: Standard deviation of the first vectors' coordinates; for `spectral`, of the
            leading one.
        start: random; or spectral: the ids' vectors start at popularity and the leading singular
            vectors of the pairs, which takes far fewer epochs; where towers add vectors up.

    Raises:
        ConfigError: a hyperparameter is out of range.
        SchemaError: a column is not there.

    Example:
        >>> import numpy as np
        >>> train = Pairs.of(np.array([0, 1, 2]), np.array([0, 1, 1]), num_users=3, num_items=2)
        >>> model = TwoTower(train, embed_dim=4)
        >>> model.encode_user(model.user_side.batch(torch.tensor([2, 0]))).shape
        torch.Size([2, 4])
        >>> model.scores(torch.tensor([2, 0])).abs().max() <= 1.001
        tensor(True)
    """

    sampling: Sampling = Sampling(draw="pairs", negatives=0)

    offsets: Tensor
    owned: Tensor
    shares: Tensor
    batches: Tensor
    last_batch: Tensor
    visits: Tensor
    interval: Tensor

    def __init__(
        self,
        train: Pairs,
        tables: SideTables | None = None,
        *,
        user_fields: Sequence[str] | None = None,
        item_fields: Sequence[str] | None = None,
        history: bool = False,
        embed_dim: int = 64,
        layout: str = "full",
        ratio: float = 1.0,
        hidden_dims: Sequence[int] = (),
        dropout: float = 0.0,
        normalize: bool = True,
        temperature: float = 0.1,
        correction: str = "exact",
        estimate_rate: float = 0.05,
        uniform_negatives: int = 0,
        mask_known: bool = False,
        unseen_share: float = 0.0,
        l2: float = 0.0,
        init_std: float = 0.1,
        start: str = "random",
    ) -> None:
        for key, value, allowed in (
            ("correction", correction, CORRECTIONS),
            ("start", start, STARTS),
        ):
            if value not in allowed:
                raise ConfigError(f'{key} is "{value}".{did_you_mean(value, allowed)}')
        if not temperature > 0:
            raise ConfigError(f"temperature is {temperature}; it must be above 0.")
        if uniform_negatives < 0 or not l2 >= 0:
            raise ConfigError(
                f"uniform_negatives is {uniform_negatives} and l2 is {l2}; neither may be below 0."
            )
        if not 0 < estimate_rate <= 1:
            raise ConfigError(f"estimate_rate is {estimate_rate}; it must be above 0, at most 1.")
        check_dropout("unseen_share", unseen_share)
        if start == "spectral" and (hidden_dims or history or layout != "full"):
            raise ConfigError(
                "start=spectral gives ids the vectors that are compared; that needs layout=full, "
                f"hidden_dims=[] and history=false, not {layout}, {list(hidden_dims)}, {history}."
            )
        embedding = embedding_options(embed_dim, layout, ratio, init_std)
        out_dim = hidden_dims[-1] if hidden_dims else embed_dim
        super().__init__(train, tables, history, embedding, user_fields, item_fields, out_dim)
        self.user_tower, self.item_tower = (
            Tower(side.num_fields, embed_dim, hidden_dims, dropout)
            for side in (self.user_side, self.item_side)
        )
        self.similarity = "cosine" if normalize else "inner_product"
        self.temperature, self.l2 = temperature, l2
        self.correction, self.estimate_rate = correction, estimate_rate
        self.uniform_negatives, self.mask_known = uniform_negatives, mask_known
        self.unseen_share = unseen_share
        pairs = {"offsets": train.offsets, "owned": train.items} if mask_known else {}
        if correction == "exact":
            pairs["shares"] = train.item_degrees / len(train)
        for (
            name,
            array,
        ) in pairs.items():  # of the pairs, not learnt: not part of the state
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        if correction == "estimated":
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
            for name in ("last_batch", "visits"):
                self.register_buffer(name, torch.zeros(self.num_items, dtype=torch.int64))
            self.register_buffer("interval", torch.zeros(self.num_items))

        if start == "spectral" and not torch.empty(0).is_meta:  # settings are checked without data
            self._start_at_spectrum(train, init_std)

    def _start_at_spectrum(self, train: Pairs, std: float) -> None:
        users, items = spectral_start(train, self.embed_dim, std)
        scale = self.temperature**0.5  # what is divided by the temperature has the scores meant
        self.user_side.set_ids(USER, users * scale)
        self.item_side.set_ids(ITEM, items * scale)

    def encode_user(self, batch: Batch) -> Tensor:
        return self._finish(self.user_tower(self.user_side.lookup(batch)))

    def encode_item(self, batch: Batch) -> Tensor:
        return self._finish(self.item_tower(self.item_side.lookup(batch)))

    def _finish(self, vectors: Tensor) -> Tensor:
        return nnf.normalize(vectors, dim=1) if self.similarity == "cosine" else vectors

    def losses(self, batch: Triples) -> dict[str, Tensor]:
        drawn = batch.positives
        if self.uniform_negatives:
            shape = (self.uniform_negatives,)
            more = torch.randint(self.num_items, shape, device=drawn.device)
            drawn = torch.cat([drawn, more])
        # Towers read every user and item of the batch once; a history is each row's own.
        users, user_at = batch.users, torch.arange(len(batch), device=drawn.device)
        if not self.history:
            users, user_at = users.unique(return_inverse=True)
        items, item_at = drawn.unique(return_inverse=True)
        positives = item_at[: len(batch)]
        user_rows = self.user_rows(users, batch.positives, self.unseen_share)
        read_users = self.user_side.lookup(user_rows)
        read_items = self.item_side.lookup(self.item_side.batch(items, self.unseen_share, ITEM))
        user_vectors = self._finish(self.user_tower(read_users)) / self.temperature
        loss = sampled_softmax(
            nnf.embedding(user_at, user_vectors),
            self._finish(self.item_tower(read_items)),
            positives,
            self._log_probability(items, batch.positives),
            self._known(batch.users, items) if self.mask_known else None,
        )
        squares = read_users.fields.square().sum() + read_items.fields.square().sum()
        return {"softmax": loss, "l2": self.l2 * squares / (2 * len(batch))}

    def _log_probability(self, items: Tensor, positives: Tensor) -> Tensor | None:
        """Of being in a batch beside a row of it, [Q]."""
        if self.correction == "none":
            return None
        if self.correction == "exact":
            others = len(positives) - 1
            return log_inclusion(self.shares[items], others, self.uniform_negatives, self.num_items)
        present = self._present(items, positives)
        return log_inclusion(present.double(), 1, self.uniform_negatives, self.num_items)

    @torch.no_grad()
    def _present(self, items: Tensor, positives: Tensor) -> Tensor:
        """Estimated probability that some row of a batch has these items [Q] (Algorithm 2)."""
        if self.training:
            self.batches += 1
            seen = positives.unique()
            gaps = (self.batches - self.last_batch[seen]).float()
            self.last_batch[seen] = self.batches
            self.visits[seen] += 1
            rates = (1 / self.visits[seen]).clamp(min=self.estimate_rate)  # first a plain mean
            self.interval[seen] = torch.lerp(self.interval[seen], gaps, rates)
        unmet = self.batches + 1  # by an item that no batch had so far
        return 1 / torch.where(self.visits[items] > 0, self.interval[items], unmet)

    def _known(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Rows, and columns among some ascending items [Q], of the training items of each user."""
        starts, lengths = self.offsets[users], self.offsets[users + 1] - self.offsets[users]
        rows = torch.arange(len(users), device=users.device).repeat_interleave(lengths)
        ends = lengths.cumsum(0)
        at = torch.arange(len(rows), device=users.device) + (starts - ends + lengths)[rows]
        owned = self.owned[at].long()
        columns = torch.searchsorted(items, owned).clamp(max=len(items) - 1)
        there = items[columns] == owned
        return rows[there], columns[there]
