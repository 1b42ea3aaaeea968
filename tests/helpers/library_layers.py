"""Stand-ins for layers of model libraries: their class's full name, their parameters, and what they compute.

Written from the sources of transformers 5.24 and timm 1.0.31, which `test_library_layers` runs where they are there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def of(module: str) -> Any:
    """Decorator: the class says that it comes from this module."""

    def rename(kind: type) -> type:
        kind.__module__, kind.__qualname__ = module, kind.__name__
        return kind

    return rename


@of("transformers.pytorch_utils")
class Conv1D(nn.Module):
    """GPT-2's linear layer, inputs first."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, units) * 0.02)
        self.bias = nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class _Experts(nn.Module):
    """Gate and up of one expert after the other in one matrix; what :meth:`up` and :meth:`down` compute is linear."""

    transposed = False

    def __init__(self, experts: int = 3, hidden: int = 16, inner: int = 12) -> None:
        super().__init__()
        shapes = [(2 * inner, hidden), (hidden, inner)]
        first, last = [tuple(reversed(shape)) for shape in shapes] if self.transposed else shapes
        self.gate_up_proj = nn.Parameter(torch.randn(experts, *first))
        self.down_proj = nn.Parameter(torch.randn(experts, *last))

    def up(self, x: Tensor) -> Tensor:
        """(experts, tokens, hidden) -> (experts, tokens, 2 inner)."""
        return x @ (self.gate_up_proj if self.transposed else self.gate_up_proj.mT)

    def down(self, x: Tensor) -> Tensor:
        return x @ (self.down_proj if self.transposed else self.down_proj.mT)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.up(x).chunk(2, -1)
        return self.down(nn.functional.silu(gate) * up)


@of("transformers.models.mixtral.modeling_mixtral")
class MixtralExperts(_Experts):
    def __init__(self) -> None:
        super().__init__()
        self.is_transposed = False  # set by transformers' decorator


@of("transformers.models.llama4.modeling_llama4")
class Llama4TextExperts(_Experts):
    transposed = True


@of("transformers.models.gpt_oss.modeling_gpt_oss")
class GptOssExperts(_Experts):
    """Gate and up interleaved, inputs first, with biases."""

    transposed = True

    def __init__(self) -> None:
        super().__init__()
        self.is_transposed = True
        self.gate_up_proj_bias = nn.Parameter(torch.full((3, 24), 0.5))
        self.down_proj_bias = nn.Parameter(torch.full((3, 16), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        both = self.up(x) + self.gate_up_proj_bias[:, None]
        return self.down((both[..., 1::2] + 1) * nn.functional.silu(both[..., ::2])) + self.down_proj_bias[:, None]


@of("transformers.models.nemotron_h.modeling_nemotron_h")
class NemotronHExperts(nn.Module):
    """No gate: the shapes alone would not say which axis is which."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj, self.down_proj = nn.Parameter(torch.randn(3, 12, 16)), nn.Parameter(torch.randn(3, 16, 12))
        self.is_transposed = False


@of("transformers.models.dbrx.modeling_dbrx")
class DbrxExpertGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.moe_num_experts = 3
        self.w1, self.v1, self.w2 = (nn.Parameter(torch.randn(3 * 12, 16)) for _ in range(3))


class StdConv2d(nn.Conv2d):
    """The kernel that is used has mean 0 and variance 1 in each unit, as in timm."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        kernel = nn.functional.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6)
        return self._conv_forward(x, kernel.reshape_as(self.weight), self.bias)


class SameConv2d(nn.Conv2d):
    """Padding of its own, the kernel as it is stored."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(nn.functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


class EqualLinear(nn.Linear):
    """A learning rate equal for all layers: the matrix is the weight times a number, so a zero stays zero."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * 0.1, self.bias)


class CentredLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class NoisyLinear(nn.Linear):
    """Noise on every weight while it trains, as in exploration by noisy networks."""

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(self.weight) if self.training else 0
        return nn.functional.linear(x, self.weight + noise, self.bias)


class BinaryLinear(nn.Linear):
    """Signs for weights, and zero has one."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, torch.where(self.weight >= 0, 1.0, -1.0), self.bias)


class BaseTunerLayer:
    """The mark by which peft's layers are known."""


@of("peft.tuners.lora.layer")
class LoraLinear(nn.Module, BaseTunerLayer):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer.requires_grad_(requires_grad=False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, layer.out_features, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)


class AuxiliaryTrainingWrapper(nn.Module):
    """The mark of peft's copies of layers that are trained whole."""


@of("peft.utils.other")
class ModulesToSaveWrapper(AuxiliaryTrainingWrapper):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.original_module = layer.requires_grad_(requires_grad=False)
        self.modules_to_save = nn.ModuleDict({"default": nn.Linear(layer.in_features, layer.out_features)})
