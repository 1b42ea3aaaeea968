"""The trial of an optimizer: what it is handed is what a loop would hand it, and settings are those of the real one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from odd_optimizers import Odd
from sparseflow.sparsifier.optimizer_state import findings
from sparseflow.sparsifier.tensors import name_of


class Curved(Odd):
    """As AdaHessian: it asks the graph of the gradient for the curvature, which inactive weights have, too."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
        if not state:
            state.update(momentum=torch.zeros_like(gradient), curvature=torch.zeros_like(gradient))
        with torch.enable_grad():
            curvature = torch.autograd.grad(gradient.sum(), parameter, retain_graph=True)[0]
        state["curvature"].mul_(0.9).add_(curvature, alpha=0.1)
        return state["momentum"].mul_(0.9).add_(gradient.detach(), alpha=0.1) / (state["curvature"].abs() + 0.1)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_curvature_belongs_to_no_weight() -> None:
    """It is not zero where the gradient is, so it must not be made so: by hand nobody does."""
    layer = nn.Linear(16, 12, bias=False)
    found = findings(Curved(layer.parameters()), layer.weight)
    assert found.error is None
    assert {name_of(path): kept.fresh for path, kept in found.per_weight.items()} == {"momentum": 0.0}
    assert list(map(name_of, found.left_alone)) == ["curvature"]
