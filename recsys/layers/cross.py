"""Cross networks of DCNv2: explicit interactions of bounded degree.

Source    Wang et al., WWW 2021, arXiv:2008.13535, Eq. 1, 5 and 6.
Letters   B rows, X input width, L layers, E experts, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError, did_you_mean
from recsys.layers.fused_hidden import fused_cross, fused_hidden_kernel
from recsys.layers.mlp import KERNELS, cpu_obstacle, init_linear


class CrossNetwork(nn.Module):
    """Full-rank cross layers: `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l`, the bias in the product.

    Args:
        in_dim: Width of x_0 and of every layer.
        num_layers: Cross layers; the output holds interactions up to degree `num_layers + 1`.
        kernel: auto: fused where it applies (float32 on a CPU); torch: never; fused: always, and
            an error that names the obstacle where it does not apply.

    Shape:
        x       [B, in_dim]
        return  [B, in_dim]
    """

    def __init__(self, in_dim: int, num_layers: int, *, kernel: str = "auto") -> None:
        super().__init__()
        _check_positive("num_cross_layers", num_layers)
        if kernel not in KERNELS:
            raise ConfigError(f'kernel is "{kernel}".{did_you_mean(kernel, KERNELS)}')
        self.kernel = kernel
        self.layers = nn.ModuleList(nn.Linear(in_dim, in_dim) for _ in range(num_layers))
        init_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel != "torch":
            obstacle = self.obstacle(x)
            if obstacle is None:
                return fused_cross(
                    x, [layer for layer in self.layers if isinstance(layer, nn.Linear)]
                )
            if self.kernel == "fused":
                raise ConfigError(f"kernel is fused, but {obstacle}. Use kernel=auto.")
        crossed = x
        for layer in self.layers:
            crossed = torch.addcmul(crossed, x, layer(crossed))  # Eq. 1
        return crossed

    def obstacle(self, x: Tensor) -> str | None:
        """Why the fused kernel does not apply to this input, or None where it does."""
        obstacle = cpu_obstacle(self.layers, x)
        if obstacle is not None:
            return obstacle
        if any(type(layer) is not nn.Linear or layer.bias is None for layer in self.layers):
            return "the layers are not all linear with a bias"
        return None if fused_hidden_kernel() else "the kernel could not be built"


class LowRankCrossNetwork(nn.Module):
    """Cross layers whose matrix is a gated mixture of low-rank experts.

    `x_{l+1} = x_l + sum_e g_e(x_l) x_0 * (U_le tanh(C_le tanh(V_le^T x_l)) + b_l)`, where the gate
    `g` is a softmax over experts. All experts run in one batched product: V_l of every expert
    is one matrix, and since the gate weighs a sum, so is U_l.

    Args:
        in_dim: Width of x_0 and of every layer.
        num_layers: Cross layers.
        rank: Rank R of each expert, at most `in_dim`.
        num_experts: Experts per layer; 1 makes the gate constant.

    Shape:
        x       [B, in_dim]
        return  [B, in_dim]

    Differs: the gate is shared by all layers, as in the public implementations; the paper leaves
    it open. With one expert the softmax is 1, so no gate is stored.
    """

    def __init__(self, in_dim: int, num_layers: int, *, rank: int, num_experts: int) -> None:
        super().__init__()
        _check_positive("num_cross_layers", num_layers)
        _check_positive("num_experts", num_experts)
        if not 1 <= rank <= in_dim:
            raise ConfigError(
                f"low_rank is {rank}; the rank of a cross expert must be in [1, {in_dim}], the "
                "width of its input. Use 0 for full rank."
            )
        self.down = nn.Parameter(torch.empty(num_layers, num_experts, rank, in_dim))  # V^T
        self.core = nn.Parameter(torch.empty(num_layers, num_experts, rank, rank))  # C
        self.up = nn.Parameter(torch.empty(num_layers, num_experts, rank, in_dim))  # U^T
        self.bias = nn.Parameter(torch.zeros(num_layers, in_dim))
        self.gate = nn.Linear(in_dim, num_experts) if num_experts > 1 else None
        for stack in (self.down, self.core, self.up):
            for matrix in stack.detach().flatten(0, 1):
                nn.init.xavier_normal_(matrix)
        init_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        crossed = x
        for down, core, up, bias in zip(self.down, self.core, self.up, self.bias, strict=True):
            num_experts, rank, _ = down.shape
            low = torch.tanh(crossed @ down.flatten(0, 1).T)
            low_BER = low.unflatten(1, (num_experts, rank))
            low_BER = torch.tanh(torch.einsum("ber,esr->bes", low_BER, core))
            if self.gate is not None:  # weigh the narrow side: sum_e g_e U_e c_e = U (g * c)
                low_BER = low_BER * self.gate(crossed).softmax(dim=1).unsqueeze(2)
            # Eq. 5-6; the gate sums to one, so the bias is added once.
            mixed = torch.addmm(bias, low_BER.flatten(1), up.flatten(0, 1))
            crossed = torch.addcmul(crossed, x, mixed)
        return crossed


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; it must be at least 1.")
