"""Stacks of fully connected layers.

Letters   B rows, I input width, O output width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError, did_you_mean
from recsys.layers.dice import Dice
from recsys.layers.fused_hidden import FusedHidden, fused_hidden, fused_hidden_kernel

KERNELS = ("auto", "torch", "fused")
FACTORIZATIONS = ("concat", "sum")

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "identity": nn.Identity,
}
LEARNED_ACTIVATIONS: dict[str, type[nn.Module]] = {"dice": Dice, "prelu": nn.PReLU}
"""Activations with a parameter per unit: they are built for a width."""


def build_activation(name: str, width: int | None = None) -> nn.Module:
    """The activation module of that name.

    Args:
        name: One of `ACTIVATIONS` or, for a known width, of `LEARNED_ACTIVATIONS`.
        width: Units that it will see.

    Raises:
        ConfigError: The name is not one of them.
    """
    known = ACTIVATIONS if width is None else ACTIVATIONS | LEARNED_ACTIVATIONS
    if name not in known:
        raise ConfigError(f'"{name}" is not an activation.{did_you_mean(name, known)}')
    return known[name](width) if name in LEARNED_ACTIVATIONS else known[name]()


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


class Factorize(nn.Module):
    """Products between halves of an input [u, v]: [u, u * v] (concat) or u + u * v (sum).

    Args:
        how: concat or sum.

    Shape:
        x       [B, 2 O']
        return  [B, 2 O'] (concat) or [B, O'] (sum)
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        if how not in FACTORIZATIONS:
            raise ConfigError(f'factorize is "{how}".{did_you_mean(how, FACTORIZATIONS)}')
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        u, v = x.chunk(2, dim=1)
        return torch.cat([u, u * v], dim=1) if self.how == "concat" else torch.addcmul(u, u, v)


FUSED_KINDS: dict[type[nn.Module], str] = {
    nn.Linear: "L",
    Factorize: "F",
    nn.BatchNorm1d: "N",
    nn.ReLU: "R",
    nn.Dropout: "D",
}


class HiddenLayers(nn.Sequential):
    """Linear -> BatchNorm -> activation -> dropout, once per entry of `hidden_dims`.

    On a CPU, in float32 and with ReLU, everything but the matrix products runs as a fused kernel;
    elsewhere, and where something watches the single layers, the layers' own code runs.

    Args:
        in_dim: Width of the input.
        hidden_dims: Width of each layer, at least one.
        activation: Name from `ACTIVATIONS` or `LEARNED_ACTIVATIONS`.
        dropout: Probability after each activation, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch, before the activation.
        factorize: concat or sum: `Factorize` follows each linear layer (FinalNet), which is twice
            as wide with sum; every width must be even with concat. Empty: a plain network.
        kernel: auto: fused where it applies; torch: never; fused: always, and an error that names
            the obstacle where it does not apply.

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
        factorize: str = "",
        kernel: str = "auto",
    ) -> None:
        check_hidden_dims(hidden_dims)
        if factorize == "concat" and any(width % 2 for width in hidden_dims):
            raise ConfigError(
                f"hidden_dims is {list(hidden_dims)}; concat splits each layer in two, so every "
                "width must be even. Change it, or use sum."
            )
        if kernel not in KERNELS:
            raise ConfigError(f'kernel is "{kernel}".{did_you_mean(kernel, KERNELS)}')
        check_dropout("dropout", dropout)
        layers: list[nn.Module] = []
        width = in_dim
        for hidden_dim in hidden_dims:
            layers.append(nn.Linear(width, hidden_dim * (2 if factorize == "sum" else 1)))
            if factorize:
                layers.append(Factorize(factorize))
            if batch_norm:
                layers.append(nn.BatchNorm1d(hidden_dim))
            layers.append(build_activation(activation, hidden_dim))
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = hidden_dim
        super().__init__(*layers)
        self.out_dim = width
        self.kernel = kernel
        init_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel == "torch":
            return super().forward(x)
        obstacle = self.obstacle(x)
        if obstacle is None:
            return fused_hidden(x, self._fused_layers(), self.training)
        if self.kernel == "fused":
            raise ConfigError(f"kernel is fused, but {obstacle}. Use kernel=auto.")
        return super().forward(x)

    def obstacle(self, x: Tensor) -> str | None:
        """Why the fused kernel does not apply to this input, or None where it does."""
        obstacle = cpu_obstacle(self, x)
        if obstacle is not None:
            return obstacle
        if not self.training and torch.is_grad_enabled():
            return "gradients are on in eval mode"
        return self._layer_obstacle(len(x)) or (
            None if fused_hidden_kernel() else "the kernel could not be built"
        )

    def _layer_obstacle(self, num_rows: int) -> str | None:
        kinds = "".join(FUSED_KINDS.get(type(layer), "?") for layer in self)
        if not re.fullmatch("(LF?N?RD?)+", kinds):
            return "the layers are not Linear, BatchNorm1d, ReLU and Dropout, in this order"
        if any(layer.training != self.training for layer in self):
            return "some layers are in training and some are not"
        for layer in self:
            if isinstance(layer, nn.Linear) and layer.bias is None:
                return "a linear layer has no bias"
            if isinstance(layer, nn.BatchNorm1d):
                if layer.momentum is None or layer.running_mean is None or not layer.affine:
                    return "batch normalisation has no momentum, running statistics or gain"
                if self.training and num_rows < 2:
                    return "one row has no batch statistics"
        return None

    def _fused_layers(self) -> list[FusedHidden]:
        layers: list[FusedHidden] = []
        for layer in self:
            if isinstance(layer, nn.Linear):
                layers.append(FusedHidden(layer))
            elif isinstance(layer, Factorize):
                layers[-1] = replace(layers[-1], factorize=layer.how)
            elif isinstance(layer, nn.BatchNorm1d):
                layers[-1] = replace(layers[-1], norm=layer)
            elif isinstance(layer, nn.Dropout):
                layers[-1] = replace(layers[-1], dropout=layer.p)
        return layers


def cpu_obstacle(module: nn.Module, x: Tensor) -> str | None:
    """Why kernels on raw float32 memory cannot stand in for `module` on `x`, or None."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.dim() != 2:
        return f"the input is {x.dtype} {list(x.shape)} on {x.device}, not float32 [B, I] on a CPU"
    if type(x) not in (Tensor, nn.Parameter) or _is_transformed():
        return "torch is tracing the model"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type != "cpu" or tensor.dtype not in (torch.float32, torch.int64):
            return "the weights are not all float32 on a CPU"
        if not tensor.is_contiguous():
            return "the weights have strides"
    for layer in module.children():
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
            return "hooks watch the single layers"
    return None


def _is_transformed() -> bool:
    """Inside torch.compile, or under a transformation of torch.func, such as vmap."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def check_hidden_dims(hidden_dims: Sequence[int]) -> None:
    """Raise ConfigError unless `hidden_dims` is a non-empty list of positive integers."""
    if not hidden_dims or any(int(width) != width or width < 1 for width in hidden_dims):
        raise ConfigError(
            f"hidden_dims is {list(hidden_dims)}; it must list at least one positive width, "
            "such as [400, 400, 400]."
        )
