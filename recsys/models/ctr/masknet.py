"""MaskNet: multiplicative masks that each row chooses from its own input.

Source   Wang et al., DLP-KDD 2021, arXiv:2102.07619, Sec. 3.
Differs  The blocks and the deep network may drop units, as in BARS, whose best row on Frappe leaves
         the vectors' layer norm out. Dense columns join x0 as they are.
Shapes   B rows, F slots, D embedding, N dense columns; x0 = [fields flattened, dense].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.mask import MaskBlock, SlotNorm
from recsys.layers.mlp import HiddenLayers, check_hidden_dims, init_linear
from recsys.models.base import CTRModel

STRUCTURES = ("parallel", "serial")


class MaskNet(CTRModel):
    """Blocks that multiply x0, or each other's output, by masks made of x0.

    Args:
        structure: parallel: blocks side by side on x0, then a deep network; serial: one block
            after another, as wide as `hidden_dims` says, then the logit.
        num_blocks: Blocks side by side (unused by serial).
        block_dim: Width of each block's output (unused by serial).
        hidden_dims: Hidden layers on the blocks; width of each block in a series.
        reduction_ratio: Width of a mask's hidden layer over that of what it masks.
        embedding_layer_norm: Normalise each slot's vector where it is masked (not in the mask).
        layer_norm: Normalise each block's units before the activation.
        activation: relu, gelu, silu, tanh, sigmoid, leaky_relu or identity; the masks' is relu.
        dropout: Probability after each block and each hidden layer, in [0, 1).

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B]        float32 logit

    Example:
        >>> model = MaskNet(num_fields=3, embed_dim=4, num_dense=1, hidden_dims=[8])
        >>> model(Embedded.random(batch=2, fields=3, dim=4, dense=1)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        *,
        structure: str = "parallel",
        num_blocks: int = 3,
        block_dim: int = 64,
        hidden_dims: Sequence[int] = (400, 400, 400),
        reduction_ratio: float = 2.0,
        embedding_layer_norm: bool = True,
        layer_norm: bool = True,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        if structure not in STRUCTURES:
            raise ConfigError(f'structure is "{structure}".{did_you_mean(structure, STRUCTURES)}')
        if num_blocks < 1 or block_dim < 1:
            raise ConfigError(
                f"num_blocks is {num_blocks} and block_dim is {block_dim}; both must be at least 1."
            )
        check_hidden_dims(hidden_dims)
        x0_dim = num_fields * embed_dim + num_dense
        self.norm = SlotNorm(num_fields, embed_dim) if embedding_layer_norm and num_fields else None
        if structure == "parallel":
            widths = [(x0_dim, block_dim)] * num_blocks
        else:
            widths = list(zip([x0_dim, *hidden_dims[:-1]], hidden_dims, strict=True))
        self.blocks = nn.ModuleList(
            MaskBlock(
                x0_dim,
                in_dim,
                out_dim,
                reduction_ratio=reduction_ratio,
                layer_norm=layer_norm,
                activation=activation,
                dropout=dropout,
            )
            for in_dim, out_dim in widths
        )
        self.hidden = None
        if structure == "parallel":
            self.hidden = HiddenLayers(
                block_dim * num_blocks, hidden_dims, activation=activation, dropout=dropout
            )
        self.output = nn.Linear(hidden_dims[-1], 1)
        init_linear(self.output)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        x0, features = embedded.flat(), self._masked(embedded)
        if self.hidden is None:
            for block in self.blocks:
                features = block(x0, features)
        else:
            features = torch.cat([block(x0, features) for block in self.blocks], dim=1)
            features = self.hidden(features)
        logit: Tensor = self.output(features).squeeze(1)
        return logit.float()

    @torch.no_grad()
    def explain(self, embedded: Embedded) -> dict[str, Tensor]:
        """`gates` [B, F]: the mean of the numbers that the blocks on x0 multiply a slot by."""
        self.check_input(embedded)
        x0 = embedded.flat()
        blocks = self.blocks[:1] if self.hidden is None else self.blocks
        masks = torch.stack([block.mask(x0) for block in blocks if isinstance(block, MaskBlock)])
        slots = masks.mean(dim=0)[:, : self.num_fields * self.embed_dim]
        return {"gates": slots.unflatten(1, (self.num_fields, self.embed_dim)).mean(dim=2)}

    def _masked(self, embedded: Embedded) -> Tensor:
        """What the first masks multiply: x0, its slots normalised, [B, F * D + N]."""
        if self.norm is None:
            return embedded.flat()
        slots: Tensor = self.norm(embedded.fields)
        return torch.cat([slots.flatten(1), embedded.dense], dim=1)
