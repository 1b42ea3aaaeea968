"""The guard of a Sparsifier: cuts weights to masks, and before each step puts right or refuses what others wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.sharded import num_true
from sparseflow.sparsifier.check import nonzero_message
from sparseflow.sparsifier.guard.copies import stop_copies
from sparseflow.sparsifier.guard.cut import Cut
from sparseflow.sparsifier.guard.watch import Watch
from sparseflow.sparsifier.tensors import chain
from sparseflow.sparsifier.weights import MaskedWeights
from sparseflow.types import BrokenPromiseError
from sparseflow.warn import warn


class Guard:
    """Masked weights and what may happen to them.

    Dense weights are cut to their masks. Weights that are sparse elsewhere are left as they are: they were loaded
    without the masks that they were trained with, which may yet come; a step without them raises.

    Args:
        model: Without wrappers.
        optimizers: Those that step the weights.
        weights: Masks and weights; their masks may be wrong until :meth:`settle_` is called.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.SGD(layer.parameters())
    >>> guard = Guard(layer, [optimizer], MaskedWeights(layer, [optimizer], {"weight": torch.tensor([[True, False]])}))
    >>> guard.settle_(), guard.look_again_()
    (['weight'], [])
    >>> layer.weight = nn.Parameter(torch.ones(1, 2))
    >>> guard.look_again_()
    Traceback (most recent call last):
    sparseflow.types.BrokenPromiseError: 'weight' of the model is not the tensor that the optimizer steps ...
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], weights: MaskedWeights) -> None:
        self._model, self._optimizers, self._weights = model, optimizers, weights
        self._watch = Watch(weights.parameters)
        self._cut = Cut()
        self._elsewhere: set[str] = set()
        # Fully sharded models exchange their parameters while they compute.
        self._paths = {name: tuple(name.split(".")) for name in weights.parameters if name not in weights.sharded}

    def settle_(self, names: Iterable[str] | None = None) -> list[str]:
        """Cut weights and optimizer states to their masks, except weights that are sparse elsewhere.

        Args:
            names: Default: all that have zeros.

        Returns: the weights that lost something; copies of it are kept until :meth:`start_step` or :meth:`restore_`.
        """
        lost = []
        for name in list(self._weights.parameters if names is None else names):
            self._weights.follow_(name)
            if self._weights.is_elsewhere(name):
                self._elsewhere.add(name)
                self._watch.forget([name])
                continue
            self._elsewhere.discard(name)
            weight = self._weights.parameters[name], self._weights.dense[name]
            was_nonzero, *_ = self._cut.keep([weight, *self._weights.states_and_masks(name)])
            self._cut.keep_states(self._weights.other_states([name]))
            self._weights.clear_([name])
            self._cut.done()
            if was_nonzero:
                lost.append(name)
        self.see()
        return lost

    def restore_(self) -> None:
        """Give back what :meth:`settle_` cut, as far as nothing wrote to it since."""
        self._cut.restore_()

    def listen(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Notice copies of an optimizer, and states that are loaded into it: ``remove()`` of each handle ends that."""
        if hasattr(optimizer, "defaults"):
            stop_copies(optimizer)
        return [
            each.register_load_state_dict_post_hook(lambda _: self.state_loaded(optimizer))
            for each in chain(optimizer)
            if hasattr(each, "_optimizer_load_state_dict_post_hooks")
        ]

    def start_step(self) -> None:
        """Let go of what was cut: a step is made with the masks as they are."""
        self._cut.forget()

    def see(self) -> None:
        """Take note of the weights after a step, and let a block of ``torch.autocast`` do so, which keeps copies."""
        torch.clear_autocast_cache()
        self._watch.see({n: mask for n, mask in self._weights.dense.items() if n not in self._elsewhere})

    def state_loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """Look at the states of an optimizer again before the next step."""
        self._watch.forget(name for name, stepped in self._weights.optimizer_of.items() if stepped is optimizer)

    def look_again_(self) -> list[str]:
        """Put right what was written since the last step, or refuse it.

        Returns: names of the weights that were looked at because something was written.

        Raises:
            BrokenPromiseError: naming a weight that was replaced, is not stepped any more, or is sparse elsewhere.
        """
        self.check_held()
        written = list(dict.fromkeys([*self._watch.written(), *self._elsewhere]))
        if not written:
            return written
        if lost := self.settle_(written):
            warn(
                f"{', '.join(map(repr, lost))} had nonzero weights off the mask, written since the last step; they are "
                "zero again, but the gradients of this step are those of the dense weights. After loading or averaging "
                "weights call sparseflow.apply_masks_(model, sparsifier.masks)."
            )
        for name in self._elsewhere:
            parameter, mask = self._weights.parameters[name], self._weights.dense[name]
            count = num_true((parameter.detach() != 0) & ~mask)
            raise BrokenPromiseError(nonzero_message(name, parameter, mask, count))
        return written

    def check_held(self) -> None:
        """Check that the model and the optimizers have the same tensors as when they were given, and masks are ours.

        Raises:
            BrokenPromiseError: naming the weight that is another tensor now, that no optimizer steps any more, or whose
                mask something else wrote.
        """
        for name in self._watch.masks_written():
            raise BrokenPromiseError(
                f"something wrote to the mask of {name!r}, which only the method may move. To go on with the masks as "
                "they are now call sparsifier.load_state_dict(sparsifier.state_dict()); for those of before load a "
                "state that was saved with them."
            )
        parameters = self._weights.parameters
        for name, path in self._paths.items():
            if _at(self._model, path) is not parameters[name]:
                raise BrokenPromiseError(
                    f"{name!r} of the model is not the tensor that the optimizer steps any more: a layer was replaced, "
                    "or a state loaded with assign=True. Call sparsifier.remove(), make the optimizer anew, then "
                    "Sparsifier(model, optimizer, sparsifier.masks, ..., state=sparsifier.state_dict())."
                )
        stepped = _stepped(self._optimizers)
        for name in self._weights.optimizer_of:
            if id(self._weights.tensors[name]) not in stepped:
                raise BrokenPromiseError(
                    f"the optimizer does not hold {name!r} any more, so its mask cannot be kept. Call "
                    "sparsifier.remove() and make one Sparsifier(model, [optimizer, ...], sparsifier.masks, ..., "
                    "state=sparsifier.state_dict()) with every optimizer that steps a masked weight."
                )


def _stepped(optimizers: Sequence[torch.optim.Optimizer]) -> set[int]:
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def _at(model: nn.Module, path: tuple[str, ...]) -> Tensor | None:
    module: nn.Module | None = model
    for part in path[:-1]:
        modules: Mapping[str, nn.Module | None] = module._modules if module is not None else {}
        module = modules.get(part)
    return None if module is None else module._parameters.get(path[-1])
