"""Every rule with options under which it acts in a few steps, and a run with it; for the tests that hold all rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import sparseflow as sf
from makers import masks_of, method_of
from tiny import OPTIMIZERS, batch, tiny_model

RULES: dict[str, Callable[[], sf.rules.StepRule]] = {
    "ham": lambda: sf.rules.HAM(alpha=20.0, beta=0.1),
    "sparse_opt": sf.rules.SparseOpt,
    "smet": lambda: sf.rules.SMET(warmup=4),
    "sign_in": lambda: sf.rules.SignIn(reset_every=5),
}
#: Each alone, and as many together as go together.
TOGETHER: dict[str, list[str]] = {
    **{name: [name] for name in RULES},
    "with smet": ["ham", "sparse_opt", "smet"],
    "with sign_in": ["ham", "sparse_opt", "sign_in"],
}


def made(case: str) -> list[sf.rules.StepRule]:
    return [RULES[name]() for name in TOGETHER.get(case, [])]


class RuleRun:
    """A model, its optimizer and its Sparsifier with the rules of a case ("none": without), at step 0."""

    def __init__(
        self,
        case: str,
        method: str = "rigl",
        optimizer: str = "momentum",
        *,
        dtype: torch.dtype = torch.float32,
        stored: bool = False,
        compiled: bool = False,
        seed: int = 0,
        make: Callable[..., torch.optim.Optimizer] | None = None,
        **options: Any,
    ) -> None:
        model = tiny_model(dtype=dtype)
        masks = masks_of(method, model)
        sf.apply_masks_(model, masks)
        self.model = sf.engine.convert(model, masks) if stored else model
        self.network = torch.compile(self.model, backend="eager", fullgraph=True) if compiled else self.model
        self.optimizer = (make or OPTIMIZERS[optimizer])(self.model.parameters())
        updater = method_of(method, **options)
        self.sparsifier = sf.Sparsifier(self.model, self.optimizer, masks, updater, seed=seed, rules=made(case))

    def loss(self, number: int) -> Tensor:
        inputs, targets = batch(number, dtype=next(self.model.parameters()).dtype)
        return F.cross_entropy(self.network(inputs), targets)

    def step(self, number: int) -> None:
        self.optimizer.zero_grad()
        self.loss(number).backward()
        self.optimizer.step()

    def tensors(self) -> list[Tensor]:
        state = sf.engine.dense_state_dict(self.model)
        return [*(tensor.detach().clone() for tensor in state.values()), *map(torch.clone, self.masks())]

    def masks(self) -> list[Tensor]:
        return list(self.sparsifier.masks.values())
