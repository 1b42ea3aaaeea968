"""One step of a decoder whose weights are annealed: what stays after it, and how it goes on once no more goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.init.fill import kaiming_normal_
from sparseflow.networks.decoder import Decoder, DecoderBlock
from sparseflow.training.text import TextRun
from sparseflow.training.top_weights import DENSE, annealed, counts, keep_, top_masks
from sparseflow.types import Masks

#: Decay of AdamW's first and second moments, the authors'.
BETAS = (0.9, 0.95)


class TextTraining:
    """A decoder, its optimizer and its masks between two steps; a whole step is :meth:`step`.

    Args:
        run: The run, which says how it starts.
    """

    def __init__(self, run: TextRun) -> None:
        self.run, self.step_count = run, 0
        self.model: nn.Module = start(run)
        self.optimizer = adamw(self.model, run)
        self.sparsifier: sf.Sparsifier | None = None
        """From the step on at which the masks are final."""
        self._masks = top_masks(self.model, run.annealing.density(0), floor=run.floor)
        self._whole = sum(each.numel() for name, each in self.model.named_parameters() if name not in self._masks)
        self.num_active = self._whole + sum(counts(self.model, run.annealing.density(0)).values())
        """Entries that are active; scales of norms and the bigram table, which have no mask, are counted whole."""

    @property
    def masks(self) -> Masks:
        """Of all that is annealed, by name; those of stored weights are made anew at each call."""
        return self._masks if self.sparsifier is None else {**self._masks, **self.sparsifier.masks}

    @property
    def num_in_table(self) -> int:
        """Entries of the bigram table."""
        return sum(self.model.get_parameter(f"{name}.weight").numel() for name in DENSE)

    def step(self, windows: Tensor, *, log: Callable[[dict[str, float]], None] | None = None) -> float:
        """Take one step on ``(batch, context + 1)`` symbols; the loss before it, in nats."""
        run, step = self.run, self.step_count
        for group in self.optimizer.param_groups:
            group["lr"] = run.rate(step)
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model, windows)
        loss.backward()
        self._scale_gradients_()
        if log is not None:
            log({"train/loss": loss.item(), "train/density": run.annealing.density(step)})
        self.optimizer.step()
        self.step_count += 1
        if self.sparsifier is None and (density := run.annealing.density(step)) < 1:
            self._keep_largest_(density)
        if self.step_count == run.settled < run.steps:
            self._keep_largest_(run.annealing.end)
            self._settle()
        return loss.item()

    def _keep_largest_(self, density: float) -> None:
        self._masks = top_masks(self.model, density, floor=self.run.floor)
        self.num_active = self._whole + sum(counts(self.model, density).values())
        keep_(self.model, self._masks)

    def _scale_gradients_(self) -> None:
        """Divide all gradients by their root mean square over active entries, which a hand-over leaves as it is."""
        squares = 0.0
        masks = self._masks if self.run.engine == "sparse" else self.masks
        for name, parameter in self.model.named_parameters():
            gradient = parameter.grad
            assert gradient is not None
            mask = masks.get(name)
            if self.sparsifier is not None and mask is not None and gradient.dim() == 1:
                gradient *= mask  # a bias, which no Sparsifier holds
            active = gradient if mask is None else gradient * mask
            squares += float(active.square().sum())
        if squares > 0:
            for parameter in self.model.parameters():
                assert parameter.grad is not None
                parameter.grad /= math.sqrt(squares / self.num_active)

    def _settle(self) -> None:
        """Go on with what is left: active values alone, or dense weights with zeros, and their moments."""
        run = self.run
        weights = {name: mask for name, mask in self._masks.items() if mask.dim() > 1}
        self._masks = {name: mask for name, mask in self._masks.items() if mask.dim() == 1}
        if run.engine == "sparse":
            dense, old = self.model, self.optimizer
            self.model = sf.engine.convert(dense, weights)
            self.optimizer = adamw(self.model, run)
            hand_over_(old, dense, self.optimizer, self.model)
        for name, mask in self._masks.items():  # biases, which no Sparsifier holds: their moments would move them
            parameter = self.model.get_parameter(name)
            for value in self.optimizer.state[parameter].values():
                if value.shape == parameter.shape:
                    value *= mask
        method: Any = sf.Static()
        if run.update_every:
            method = sf.RigL(
                drop_fraction=run.drop_fraction, update_every=run.update_every, total_steps=run.steps - run.settled,
                schedule="cosine",
            )  # fmt: skip
        self.sparsifier = sf.Sparsifier(self.model, self.optimizer, weights, method, seed=run.seed)

    def check(self) -> None:
        """Raise if an entry off its mask is not zero."""
        if self.sparsifier is not None:
            self.sparsifier.check()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values to go on from."""
        return {
            "step": self.step_count,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "masks": dict(self.masks),
            "sparsifier": None if self.sparsifier is None else self.sparsifier.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`; only for a training at step 0."""
        self.step_count, self._masks = state["step"], state["masks"]
        self.num_active = self._whole + sum(int(mask.sum()) for mask in self._masks.values())
        if state["sparsifier"] is not None:
            keep_(self.model, self._masks)
            self._settle()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.sparsifier is not None:
            self.sparsifier.load_state_dict(state["sparsifier"])


def start(run: TextRun) -> Decoder:
    r"""The decoder at step 0, in which masks of ``start_one_in`` are applied.

    Weights have variance :math:`1 / n`, with :math:`n` counted by the scheme ``init``; those that write to the residual
    stream are divided by :math:`\sqrt{2 L}` as in GPT-2. Biases and the bigram table are zero.
    """
    with torch.device("meta"):
        model = Decoder(**run.size)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            module.reset_parameters()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and name.endswith("bias"):
                parameter.zero_()
            elif name in annealed(model) and name.endswith("weight"):
                parameter.fill_(1.0)  # to be drawn: initialize_ leaves alone what is zero or has no values
        model.bigram.weight.zero_()
        masks = sf.random_masks(
            model, 1 - run.annealing.start, include=["embedding.weight"], exclude=["bigram*"], seed=run.seed
        )
        sf.initialize_(
            model, masks, scheme=run.init, seed=run.seed, base=partial(kaiming_normal_, nonlinearity="linear")
        )
        for block in model.blocks:
            assert isinstance(block, DecoderBlock)
            for layer in (block.out, block.narrow):
                layer.weight /= math.sqrt(2 * run.depth)
    return model


def adamw(model: nn.Module, run: TextRun) -> torch.optim.AdamW:
    """AdamW with the run's settings; biases, scales of norms and the bigram table do not decay."""
    decays: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        layer, _, kind = name.rpartition(".")
        decays[kind == "values" or (parameter.dim() > 1 and layer not in DENSE)].append(parameter)
    groups = [{"params": found, "weight_decay": run.weight_decay * is_on} for is_on, found in decays.items()]
    return torch.optim.AdamW(groups, lr=run.learning_rate, betas=BETAS, eps=run.epsilon)


def hand_over_(old: torch.optim.Optimizer, dense: nn.Module, new: torch.optim.Optimizer, sparse: nn.Module) -> None:
    """Give an optimizer of active values the state that one of dense weights has of them.

    Args:
        old: Of ``dense``.
        dense: A model.
        new: Of ``sparse``; without state.
        sparse: ``dense``, converted.
    """
    layers = {layer.values: (name, layer.pattern) for name, layer in sf.engine.sparse_layers(sparse).items()}
    names = {parameter: name for name, parameter in sparse.named_parameters()}
    for group in new.param_groups:
        for parameter in group["params"]:
            name, pattern = layers.get(parameter, (names[parameter], None))
            weight = dense.get_parameter(name)
            for key, value in old.state.get(weight, {}).items():
                belongs = pattern is not None and value.shape == weight.shape
                new.state[parameter][key] = pattern.gather(value) if belongs else value.clone()  # type: ignore[union-attr]


def cross_entropy(model: nn.Module, windows: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each symbol of ``(windows, context + 1)`` but the first of each window."""
    logits: Tensor = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
