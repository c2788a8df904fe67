"""FGCNN: new features from convolutions over the fields, then any classifier on old and new.

Source   Liu et al., WWW 2019, arXiv:1904.04447, Sec. 3.
Differs  Every layer has the same kernel, pooling and number of new maps, as in all published
         settings. Where pooling does not divide the fields, the last window is short. The
         convolutions may use batch normalisation, as in BARS. Dense columns go to the classifier.
Shapes   B rows, F slots, D embedding, N dense columns, G generated fields. The convolution slides
         over the slots in the schema's order, which a saved model keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.generation import FeatureGeneration
from recsys.models.base import CTRModel
from recsys.models.ctr.dcnv2 import DCNv2
from recsys.models.ctr.deepfm import DeepFM
from recsys.models.ctr.ipnn import IPNN
from recsys.models.ctr.mlp import MLP
from recsys.models.ctr.xdeepfm import XDeepFM

CLASSIFIERS: dict[str, Callable[..., CTRModel]] = {
    "ipnn": IPNN,
    "mlp": MLP,
    "dcnv2": DCNv2,
    "deepfm": DeepFM,
    "xdeepfm": XDeepFM,
}


class FGCNN(CTRModel):
    """A classifier that reads, beside the fields, new ones which a convolutional network makes.

    Worth a try where neighbouring fields belong together; most of its weights are in the
    recombination, which grows with the square of the fields.

    Args:
        channels: Maps of each convolution; L layers need more than pool_size^(L - 1) fields.
        kernel_size: Fields that a convolution spans; odd.
        pool_size: Fields that become one in each layer.
        num_new_maps: New fields of a layer per field left after its pooling.
        conv_batch_norm: Normalise the convolutions' maps over the batch.
        share_embedding: Generate from the classifier's own vectors; False: from a second table.
        classifier: ipnn, mlp, dcnv2, deepfm or xdeepfm, on F + G fields. The options below are
            its own; what else it has keeps its default.
        hidden_dims: Width of each hidden layer.
        activation: relu, gelu, silu, tanh, sigmoid, leaky_relu or identity.
        dropout: Probability after each hidden layer, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch.

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B]        float32 logit

    Example:
        >>> model = FGCNN(num_fields=4, embed_dim=4, num_dense=0, channels=[6, 8])
        >>> model(Embedded.random(batch=2, fields=4, dim=4)).shape
        torch.Size([2])
    """

    min_fields: ClassVar[int] = 2

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        *,
        channels: Sequence[int] = (14, 16, 18),
        kernel_size: int = 7,
        pool_size: int = 2,
        num_new_maps: int = 3,
        conv_batch_norm: bool = True,
        share_embedding: bool = False,
        classifier: str = "ipnn",
        hidden_dims: Sequence[int] = (400, 400, 400),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        if classifier not in CLASSIFIERS:
            raise ConfigError(
                f'classifier is "{classifier}".{did_you_mean(classifier, CLASSIFIERS)}'
            )
        self.generation = FeatureGeneration(
            num_fields,
            embed_dim,
            channels,
            kernel_size=kernel_size,
            pool_size=pool_size,
            num_new_maps=num_new_maps,
            batch_norm=conv_batch_norm,
        )
        self.classifier = CLASSIFIERS[classifier](
            num_fields + self.generation.out_fields,
            embed_dim,
            num_dense,
            hidden_dims=hidden_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.needs_second = not share_embedding
        self.needs_linear = self.classifier.needs_linear

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        raw = embedded.second if self.needs_second else embedded.fields
        assert raw is not None
        fields = torch.cat([embedded.fields, self.generation(raw)], dim=1)  # [B, F + G, D]
        logit: Tensor = self.classifier(Embedded(fields, embedded.dense, embedded.linear))
        return logit
