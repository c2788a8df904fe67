"""ARM-Net and ARM-Net+: feature crosses of adaptive order, chosen per row by sparse gates.

Source   Cai et al., SIGMOD 2021, arXiv:2107.01830, Sec. 3.
Differs  Scores are divided by sqrt(D), as in the authors' code. Exponents above 20 count as 20, so
         that neither exp nor the batch's variance overflows. Numbers are not clamped to
         [0.001, 1]. W_att and q enter only as their product, which is multiplied first; with one
         head this is the authors' one-head model, whose W_att is one linear layer.
         ARM-Net+ is `deep_dims=[400, 400, 400]`: its network has a table of its own
         (`Embedded.second`).
Shapes   B rows, F slots, N dense columns, D embedding, S = F + N, K heads, O neurons of a head,
         J = K * O neurons.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.layers.entmax import check_alpha, entmax
from recsys.layers.mlp import HiddenLayers, init_linear
from recsys.models.base import CTRModel

MAX_EXPONENT = 20.0


class ExponentialNeurons(nn.Module):
    """Each neuron multiplies powers of the slots it reads: prod_j exp(e_j)^(w_j).

    The power w_j is a learned number times a gate that depends on the row and is often zero.

    Args:
        num_slots: Slots of the input.
        embed_dim: Width of a slot.
        num_heads: Heads, each with a bilinear form of its own.
        num_neurons: Neurons of a head.
        alpha: Sparsity of the gates, at least 1; 1 is softmax, which closes none.

    Shape:
        slots   [B, S, D]
        return  [B, J, D], positive
    """

    def __init__(
        self, num_slots: int, embed_dim: int, num_heads: int, num_neurons: int, alpha: float
    ) -> None:
        super().__init__()
        for name, value in (("num_heads", num_heads), ("num_neurons", num_neurons)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        self.alpha = check_alpha(alpha)
        self.bilinear = nn.Parameter(torch.empty(num_heads, embed_dim, embed_dim))
        self.queries = nn.Parameter(torch.empty(num_heads, num_neurons, embed_dim))
        self.powers = nn.Parameter(torch.empty(num_heads * num_neurons, num_slots))
        for head in (*self.bilinear, *self.queries, *self.powers.chunk(num_heads)):
            nn.init.xavier_uniform_(head, gain=2**0.5)

    def forward(self, slots: Tensor) -> Tensor:
        exponents = torch.bmm(self.weights(slots), slots)  # [B, J, D]
        # At least float32, where e^20 squared and summed over a batch is still a number.
        exponents = exponents.to(torch.promote_types(exponents.dtype, torch.float32))
        return exponents.clamp(max=MAX_EXPONENT).exp()

    def weights(self, slots: Tensor) -> Tensor:
        """w_ij = s_ij v_ij, [B, J, S]: the power of slot j in neuron i."""
        queries = (self.queries @ self.bilinear).flatten(0, 1) * slots.shape[2] ** -0.5  # [J, D]
        scores = slots @ queries.T  # [B, S, J], Eq. 5
        gates = entmax(scores.transpose(1, 2), self.alpha)
        return gates * self.powers


class ARMNet(CTRModel):
    """Sparse feature crosses of any order, learned and shown per row; ARM-Net+ adds an MLP.

    Each dense column has a learned vector, which its number scales, and is a slot like the others.

    Args:
        num_heads: Heads K of the gates.
        num_neurons: Exponential neurons of a head, O; K * O crosses in all.
        alpha: Sparsity of the gates: 1 softmax, 1.5, 2 sparsemax; 1.5 and 2 are the fast ones.
        hidden_dims: Hidden layers on the crosses.
        deep_dims: Hidden layers of ARM-Net+'s own network; empty for ARM-Net.
        activation: relu, gelu, silu, tanh, sigmoid, leaky_relu or identity.
        dropout: Probability after each hidden layer of both networks, in [0, 1).
        batch_norm: Normalise the hidden units of both networks over the batch. The crosses are
            normalised in any case.

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B]        float32 logit

    Example:
        >>> model = ARMNet(num_fields=3, embed_dim=4, num_dense=0, num_neurons=8)
        >>> model(Embedded.random(batch=2, fields=3, dim=4)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        *,
        num_heads: int = 1,
        num_neurons: int = 32,
        alpha: float = 1.5,
        hidden_dims: Sequence[int] = (400, 400),
        deep_dims: Sequence[int] = (),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        if any(width < 1 for width in deep_dims):
            raise ConfigError(
                f"deep_dims is {list(deep_dims)}; it must list positive widths, such as "
                "[400, 400, 400], or be empty for ARM-Net."
            )
        self.needs_second = bool(deep_dims)
        num_slots = num_fields + num_dense
        self.dense_vectors = _vectors(num_dense, embed_dim)
        self.neurons = ExponentialNeurons(num_slots, embed_dim, num_heads, num_neurons, alpha)
        num_crosses = num_heads * num_neurons
        self.norm = nn.BatchNorm1d(num_crosses)
        self.hidden = _network(
            num_crosses * embed_dim,
            hidden_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.deep_vectors, self.deep, self.mix = None, None, None
        if deep_dims:
            self.deep_vectors = _vectors(num_dense, embed_dim)
            self.deep = _network(
                num_slots * embed_dim,
                deep_dims,
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
            )
            self.mix = nn.Linear(2, 1)
            nn.init.constant_(self.mix.weight, 0.5)
            nn.init.zeros_(self.mix.bias)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        crosses = self.norm(
            self.neurons(_slots(embedded.fields, embedded.dense, self.dense_vectors))
        )
        logit: Tensor = self.hidden(crosses.flatten(1))
        if self.deep is not None and self.mix is not None:
            assert embedded.second is not None
            own = _slots(embedded.second, embedded.dense, self.deep_vectors)
            logit = self.mix(torch.cat([logit, self.deep(own.flatten(1))], dim=1))
        return logit.squeeze(1).float()

    @torch.no_grad()
    def explain(self, embedded: Embedded) -> dict[str, Tensor]:
        """`crosses` [B, J, F + N]: each slot's power in each neuron, 0 where the gate is shut."""
        self.check_input(embedded)
        slots = _slots(embedded.fields, embedded.dense, self.dense_vectors)
        return {"crosses": self.neurons.weights(slots).float()}

    @torch.no_grad()
    def contributions(self, embedded: Embedded) -> Tensor:
        """[B, J]: what each neuron adds to the logit, against its average over the training data.

        The logit less what it would be with the neuron's normalised output at its mean. The
        network is not linear, so that they need not add up. Costs J passes of the hidden layers.
        """
        self.check_input(embedded)
        training = self.training
        self.eval()
        try:
            slots = _slots(embedded.fields, embedded.dense, self.dense_vectors)
            crosses = self.norm(self.neurons(slots))
            whole = self.hidden(crosses.flatten(1))
            without = []
            for neuron, mean in enumerate(self.norm.bias):
                others = crosses.clone()
                others[:, neuron] = mean
                without.append(self.hidden(others.flatten(1)))
        finally:
            self.train(training)
        share = 1.0 if self.mix is None else self.mix.weight[0, 0]
        return (whole - torch.cat(without, dim=1)).float() * share


def describe_crosses(
    crosses: Tensor, slots: Sequence[str], contributions: Tensor | None = None, top: int = 5
) -> str:
    """The most important neurons of one prediction, one per line, with what they multiply.

    Args:
        crosses: `explain(...)["crosses"]` of one row.
        slots: Name of each slot, those of the dense columns last.
        contributions: `contributions(...)` of the row, by which neurons are then ordered; without
            them, by the sum of their powers' sizes.
        top: Neurons to show, at most.

    Shape:
        crosses        [J, S]
        contributions  [J]

    Example:
        >>> crosses = torch.tensor([[0.0, 0.5, -0.25], [2.0, 0.0, 0.0]])
        >>> print(describe_crosses(crosses, ["user", "item", "city"]))
        neuron  weight  crosses
             1   2.000  user^+2.00
             0   0.750  item^+0.50 * city^-0.25
    """
    if crosses.dim() != 2 or crosses.shape[1] != len(slots):
        raise ValueError(
            f"crosses are {list(crosses.shape)}, but {len(slots)} slots are named; give the "
            "crosses [J, S] of one row and the names of all S slots, dense columns last."
        )
    by_weight = contributions is None
    value = crosses.abs().sum(dim=1) if contributions is None else contributions
    title = "weight" if by_weight else "logit"
    lines = [f"neuron  {title:>6}  crosses"]
    for neuron in value.abs().argsort(descending=True, stable=True)[:top].tolist():
        row = crosses[neuron]
        shown = [j for j in row.abs().argsort(descending=True, stable=True).tolist() if row[j] != 0]
        product = " * ".join(f"{slots[j]}^{row[j]:+.2f}" for j in shown)
        number = f"{value[neuron]:.3f}" if by_weight else f"{value[neuron]:+.3f}"
        lines.append(f"{neuron:>6}  {number:>6}  {product}")
    return "\n".join(lines)


def _vectors(num_dense: int, embed_dim: int) -> nn.Parameter | None:
    """One vector per dense column."""
    if not num_dense:
        return None
    return nn.Parameter(torch.randn(num_dense, embed_dim) * embed_dim**-0.5)


def _slots(fields: Tensor, dense: Tensor, vectors: Tensor | None) -> Tensor:
    """Field vectors, then one vector per dense column, scaled by its number, [B, F + N, D]."""
    if vectors is None:
        return fields
    return torch.cat([fields, dense.unsqueeze(2) * vectors], dim=1)


def _network(
    in_dim: int, dims: Sequence[int], *, activation: str, dropout: float, batch_norm: bool
) -> nn.Sequential:
    """Hidden layers and one linear unit, [B, in_dim] -> [B, 1]."""
    network = nn.Sequential(
        HiddenLayers(in_dim, dims, activation=activation, dropout=dropout, batch_norm=batch_norm),
        nn.Linear(dims[-1], 1),
    )
    init_linear(network)
    return network
