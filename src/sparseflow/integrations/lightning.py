"""Sparse training in Lightning: one callback beside the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.integrations import missing
from sparseflow.integrations.given import MasksLike, MethodLike, check_given, masks_for, method_for
from sparseflow.masks.make import apply_masks_
from sparseflow.masks.select import unwrap
from sparseflow.record import Record, record
from sparseflow.sharded import full
from sparseflow.sparsifier.sparsifier import Sparsifier
from sparseflow.types import Masks

try:
    import lightning.pytorch as pl
except ImportError:
    try:
        import pytorch_lightning as pl  # type: ignore[no-redef]
    except ImportError as error:
        raise missing("lightning", error) from error


class SparsifierCallback(pl.Callback):
    """Keep a LightningModule sparse while a Trainer fits it, by a :class:`sparseflow.Sparsifier` around its optimizers.

    The module stays as it is. Steps, masks and random draws are those of an own loop, bit for bit.

    * **Optimization**: automatic and manual, one optimizer or several, accumulated gradients, every precision that
      leaves the weights themselves to the optimizer. Gradients are masked before they are clipped.
    * **Checkpoints** hold masks, step count and draws; ``trainer.fit(..., ckpt_path=...)`` goes on bit for bit, and so
      does a second ``fit`` of the same module. Those of ``save_weights_only=True`` hold the zeros alone
      (``sparseflow.masks_of``).
    * **Averages** of ``WeightAveraging``, ``EMAWeightAveraging`` and ``StochasticWeightAveraging`` are cut to the masks
      when these change, so that they are sparse in validation, in checkpoints, and when ``fit`` ends.
    * **Logs** through the module: ``sparseflow/gradient_norm``, ``sparseflow/swapped`` and ``sparseflow/sparsity``,
      every ``log_every_n_steps`` of the Trainer; see :func:`sparseflow.record`.

    Args:
        masks: Parameter name in the LightningModule -> bool tensor, or a function that makes them of the module when
            ``fit`` starts, for layers that ``configure_model`` makes. Not called where a checkpoint has masks.
        method: The rule by which masks change, such as ``sparseflow.RigL(...)``, or a function that makes it of the
            number of optimizer steps that the Trainer is to take, such as
            ``lambda total_steps: sf.RigL(total_steps=total_steps)``.
        seed: As for the Sparsifier.
        gradient_fn: As for the Sparsifier.
        record_every: Optimizer steps between rows of :attr:`record`; default: ``log_every_n_steps`` of the Trainer.

    Raises:
        TypeError, ValueError: when ``fit`` starts, if masks do not fit the module or no optimizer holds them.

    >>> import lightning, sparseflow as sf
    >>> callback = SparsifierCallback(lambda module: sf.random_masks(module, 0.9, seed=0), sf.Static(), seed=0)
    >>> trainer = lightning.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(
        self,
        masks: MasksLike,
        method: MethodLike,
        *,
        seed: int,
        gradient_fn: Callable[[], Mapping[str, Tensor]] | None = None,
        record_every: int | None = None,
    ) -> None:
        check_given(masks, method)
        self.sparsifier: Sparsifier | None = None
        """The Sparsifier of the fit under way, or of the last one; ``None`` before the first."""
        self.record: Record | None = None
        """What was recorded in this fit: ``print(callback.record.table())``, ``callback.record.plot()``."""
        self._masks, self._method, self._seed, self._gradient_fn = masks, method, seed, gradient_fn
        self._record_every = record_every
        self._is_fitting = False
        self._loaded: Mapping[str, Any] | None = None  # load_state_dict comes before there are optimizers

    @property
    def masks(self) -> Masks:
        """Parameter name -> mask, now: of the fit, or of the checkpoint that was loaded since.

        Raises:
            RuntimeError: before there is one.
        """
        if self._loaded is not None:
            return self._loaded["masks"]  # type: ignore[no-any-return]
        if self.sparsifier is None:
            raise RuntimeError(
                "the callback has no masks yet: they are made when trainer.fit(...) starts, or come with the "
                "checkpoint of trainer.fit, validate or test(..., ckpt_path=...)."
            )
        return self.sparsifier.masks

    # -- from start to end -----------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the Sparsifier, now that optimizers exist and a checkpoint's masks are known."""
        self._stop()
        module = unwrap(pl_module)
        state, self._loaded = self._loaded, None
        if state is None and self.sparsifier is not None and self.sparsifier.model is module:
            state = self.sparsifier.state_dict()  # fit goes on where it ended
        masks = state["masks"] if state else masks_for(self._masks, pl_module)
        model = trainer.strategy.model
        self.sparsifier = Sparsifier(
            pl_module if model is None else model,
            _stepping(trainer.optimizers, module, masks),
            masks,
            method_for(self._method, _total_steps(trainer)) if callable(self._method) else self._method,
            seed=self._seed,
            gradient_fn=self._gradient_fn,
            state=state,
        )
        self._is_fitting = True
        self.sparsifier.after_update.append(lambda *_: self._cut_averages(trainer))
        every = self._record_every or trainer.log_every_n_steps  # type: ignore[attr-defined]
        self.record = record(self.sparsifier, every=every) if every else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cut averages that were made of the dense module."""
        self._cut_averages(trainer)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Mask gradients before the Trainer clips them."""
        if self.sparsifier is not None:
            self.sparsifier.mask_gradients_()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the latest row of the record, when the Trainer's loggers take one: logging costs a millisecond."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0 and self.record is not None and self.record.latest:
            rows = {f"sparseflow/{name}": value for name, value in self.record.latest.items()}
            pl_module.log_dict(rows, on_step=True, on_epoch=False, batch_size=1)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Cut an average that another callback, of any kind, has put in place for validation."""
        if self._is_fitting and batch_idx == 0:
            apply_masks_(pl_module, self.masks)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cut an average that was put in place at the end, and stop."""
        apply_masks_(pl_module, self.masks)
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop, so that ``fit`` can be called again."""
        self._stop()

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The Sparsifier's state, for the checkpoint that the Trainer writes."""
        if self._loaded is not None:
            return dict(self._loaded)
        if self.sparsifier is None:
            return {}
        state = self.sparsifier.state_dict()
        for key in state.keys() & {"masks", "gradient_mean", "reserve"}:
            state[key] = {name: full(tensor) for name, tensor in state[key].items()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's state, at once or when ``fit`` starts."""
        if self._is_fitting and self.sparsifier is not None:
            self.sparsifier.load_state_dict(state_dict)
        else:
            self._loaded = state_dict

    # -- how -------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        if self._is_fitting and self.sparsifier is not None:
            self._is_fitting = False
            if self.record is not None:
                self.record.stop()
            self.sparsifier.remove()

    def _cut_averages(self, trainer: pl.Trainer) -> None:
        for average in _averages(trainer):
            apply_masks_(average, self.masks)


def _total_steps(trainer: pl.Trainer) -> int:
    """Optimizer steps of the whole fit.

    Raises:
        ValueError: if it has no end.
    """
    steps = trainer.estimated_stepping_batches
    if not 0 < steps < math.inf:
        raise ValueError(
            "method= is a function of the number of optimizer steps, and this fit has no end. Give the Trainer "
            "max_steps= or max_epochs=, or SparsifierCallback a method such as sparseflow.RigL(update_until=1000)."
        )
    return int(steps)


def _averages(trainer: pl.Trainer) -> Iterator[nn.Module]:
    """The averaged copies that Lightning's own callbacks hold; there is no public name for them."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(average := getattr(callback, "_average_model", None), nn.Module):
            yield average


def _stepping(optimizers: list[Any], module: nn.Module, masks: Masks) -> list[Any]:
    """The optimizers that hold a masked weight: steps of others do not count.

    Raises:
        ValueError: if there is no optimizer.
    """
    if not any(
        parameter.numel() for each in optimizers for group in each.param_groups for parameter in group["params"]
    ):
        raise ValueError(
            f"configure_optimizers of {type(module).__name__} returned no optimizer, so there is no step to keep "
            "weights sparse at. Return one, such as torch.optim.SGD(self.parameters(), lr=0.1), or leave "
            "SparsifierCallback out."
        )
    masked = {id(parameter) for name, parameter in module.named_parameters() if name in masks}
    held = [each for each in optimizers if any(id(p) in masked for group in each.param_groups for p in group["params"])]
    return held or optimizers
