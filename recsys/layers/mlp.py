"""Stacks of fully connected layers.

Letters   B rows, I input width, O output width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.errors import ConfigError, did_you_mean

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "identity": nn.Identity,
}


def build_activation(name: str) -> nn.Module:
    """The activation module of that name.

    Raises:
        ConfigError: The name is not one of `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f'"{name}" is not an activation.{did_you_mean(name, ACTIVATIONS)}')
    return ACTIVATIONS[name]()


def check_dropout(name: str, value: float) -> float:
    """Return `value` when it is a probability in [0, 1), else raise ConfigError naming `name`."""
    if not 0.0 <= value < 1.0:
        raise ConfigError(f"{name} is {value}; a dropout probability must be in [0, 1).")
    return float(value)


def init_linear(module: nn.Module) -> None:
    """Xavier-normal weights and zero biases for every `nn.Linear` inside `module`.

    The initialisation of the BARS benchmark (reczoo/FuxiCTR), which published CTR results use.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer.weight.numel():
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class HiddenLayers(nn.Sequential):
    """Linear -> BatchNorm -> activation -> dropout, once per entry of `hidden_dims`.

    Args:
        in_dim: Width of the input.
        hidden_dims: Width of each layer, at least one.
        activation: Name from `ACTIVATIONS`.
        dropout: Probability after each activation, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch, before the activation.

    Shape:
        x       [B, in_dim]
        return  [B, out_dim], where out_dim = hidden_dims[-1]

    Example:
        >>> import torch
        >>> HiddenLayers(6, [8, 4], batch_norm=True)(torch.zeros(3, 6)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        check_hidden_dims(hidden_dims)
        check_dropout("dropout", dropout)
        layers: list[nn.Module] = []
        width = in_dim
        for hidden_dim in hidden_dims:
            layers.append(nn.Linear(width, hidden_dim))
            if batch_norm:
                layers.append(nn.BatchNorm1d(hidden_dim))
            layers.append(build_activation(activation))
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = hidden_dim
        super().__init__(*layers)
        self.out_dim = width
        init_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def check_hidden_dims(hidden_dims: Sequence[int]) -> None:
    """Raise ConfigError unless `hidden_dims` is a non-empty list of positive integers."""
    if not hidden_dims or any(int(width) != width or width < 1 for width in hidden_dims):
        raise ConfigError(
            f"hidden_dims is {list(hidden_dims)}; it must list at least one positive width, "
            "such as [400, 400, 400]."
        )
