"""Hugging Face's Trainer: a callback that keeps the model sparse, and a mixin for what no callback can reach."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sparseflow.attached import holder_of
from sparseflow.disk import make_folder
from sparseflow.integrations import missing
from sparseflow.integrations.given import MasksLike, MethodLike, check_given, masks_for, method_for
from sparseflow.integrations.pretrained import save_pretrained
from sparseflow.masks.select import unwrap
from sparseflow.methods import Static
from sparseflow.record import Record, record
from sparseflow.sharded import full
from sparseflow.sparsifier.sparsifier import Sparsifier
from sparseflow.state_file import read_checkpoint, write_checkpoint
from sparseflow.types import Masks
from sparseflow.warn import warn

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise missing("transformers", error) from error

__all__ = ["SparseTrainerMixin", "SparsifierCallback", "save_pretrained"]

#: File of the Sparsifier's state, in the folder of each checkpoint.
STATE = "sparsifier.pt"
_PREFIX = "sparseflow/"
#: Of the record; its rows stay in step with the logs up to this.
_MOST_ROWS = 1_000_000


class SparsifierCallback(TrainerCallback):
    """Keep the model of a Trainer sparse: ``Trainer(..., callbacks=[SparsifierCallback(...)])``.

    A :class:`sparseflow.Sparsifier` is made when training begins. Its state is saved in each checkpoint's folder, taken
    up again where training resumes, and put back with the best model; training continues bit for bit. A second
    ``train()`` of the same model goes on from its masks.

    With :class:`SparseTrainerMixin` gradients are masked before they are clipped, a checkpoint may lie anywhere, and
    the logs reach every reporter.

    Args:
        masks: Parameter name -> bool tensor, or a function that makes them of the model when training begins, such as
            ``lambda model: sf.magnitude_masks(model, 0.9)``; ``sf.dense_masks`` for gradual pruning.
        method: The rule by which masks change, or a function that makes it of the number of optimizer steps of the
            whole training, such as ``lambda total_steps: sf.RigL(total_steps=total_steps)``. Default: masks stay.
        seed: Of the draws of growth; default the Trainer's own ``args.seed``.

    Raises:
        TypeError: if ``masks`` or ``method`` is neither of the two.

    >>> import sparseflow as sf
    >>> SparsifierCallback(lambda model: sf.magnitude_masks(model, 0.9)).sparsifier is None
    True
    """

    def __init__(
        self,
        masks: MasksLike,
        method: MethodLike | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        method = Static() if method is None else method
        check_given(masks, method)
        self._masks, self._method, self._seed = masks, method, seed
        self.sparsifier: Sparsifier | None = None
        """Of the training under way, or of the last one."""
        self.record: Record | None = None
        """Its gradient flow, swaps and sparsity at each logged step: ``record.table()``, ``record.plot()``."""
        self.checkpoint: Path | None = None
        """Folder from which training is about to resume; the mixin says it."""
        self._state: Any = None
        self._is_masked = self._is_warned = self._is_saved = False

    @property
    def masks(self) -> Masks:
        """The masks now; after training those of the model as it was left.

        Raises:
            RuntimeError: if no training has begun.
        """
        return self._held().masks

    # -- what the Trainer calls ----------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the Sparsifier; the Trainer has restored weights and optimizer by now."""
        if state is self._state:
            raise ValueError("this SparsifierCallback was given to the Trainer twice. Write callbacks=[callback].")
        model, before = unwrap(kwargs["model"]), self.sparsifier
        if before is not None:
            before.remove()
        checkpoint, self.checkpoint = self.checkpoint, None
        saved = _read(checkpoint or _found(args, state)) if state.global_step else None
        if 0 < args.max_steps <= state.global_step:
            warn(
                f"this run has ended, at step {state.global_step} of max_steps={args.max_steps}, and the Trainer takes "
                "one more step before it sees that. Use what it saved, or raise max_steps."
            )
        masks: Masks
        if saved is None and before is not None and before.model is model:
            masks = before.masks  # it is sparse there
        elif saved is not None and not isinstance(self._masks, Mapping):
            masks = saved["masks"]
        else:
            masks = masks_for(self._masks, model)
        _check_free(model, masks)
        method = method_for(self._method, state.max_steps)
        seed = args.seed if self._seed is None else self._seed
        self.sparsifier = Sparsifier(model, kwargs["optimizer"], masks, method, seed=seed, state=saved)
        every = max(1, int(state.logging_steps)) if args.logging_strategy == "steps" else 1
        self.record = record(self.sparsifier, every=every, most_rows=_MOST_ROWS)
        self._state = state

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Warn where gradients were clipped before those of inactive weights were masked."""
        if args.max_grad_norm > 0 and not (self._is_masked or self._is_warned):
            self._is_warned = True
            warn(
                f"the Trainer clips gradients (max_grad_norm={args.max_grad_norm}) before it calls a callback, so "
                "those of inactive weights count in the norm and active ones are cut by too much. Write class "
                "SparseTrainer(SparseTrainerMixin, Trainer): pass, and use it; or give max_grad_norm=0."
            )
        self._is_masked = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add what the mixin has not added."""
        found = self.measurements()
        if logs is not None and "loss" in logs and not found.keys() & logs.keys():
            logs.update(found)
            state.log_history[-1].update(found)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the Sparsifier's state into a checkpoint that the mixin has not written it into."""
        if not self._is_saved:
            self.save(_folder(args, state) if args.should_save else None)
        self._is_saved = False

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the masks of the best model back with it, and let go of the model."""
        sparsifier = self._held()
        is_whole = control.should_training_stop  # a pruned trial of a search ends without it
        if args.load_best_model_at_end and state.best_model_checkpoint and is_whole:
            sparsifier.load_state_dict(_read(Path(state.best_model_checkpoint)))
        sparsifier.remove()
        self._state = None

    # -- what the mixin calls ------------------------------------------------------------------------------------

    def mask_gradients_(self) -> None:
        """Zero the gradients of inactive weights, see :meth:`sparseflow.Sparsifier.mask_gradients_`."""
        self._held().mask_gradients_()
        self._is_masked = True

    def measurements(self) -> dict[str, float]:
        """What is logged: the last row of the record, under names that begin with ``sparseflow/``."""
        latest = {} if self.record is None else self.record.latest
        return {f"{_PREFIX}{name}": value for name, value in latest.items()}

    def save(self, folder: Path | None) -> None:
        """Write the Sparsifier's state into a folder, whole or not at all.

        Args:
            folder: Made if need be; ``None`` on processes that do not write, which must call it too.

        Raises:
            OSError: if the disk is full; a file of before stays.
        """
        state = self._held().state_dict()
        for key in state.keys() & {"masks", "gradient_mean", "reserve"}:
            state[key] = {name: full(tensor) for name, tensor in state[key].items()}
        if folder is not None:
            make_folder(folder)
            write_checkpoint(folder / STATE, state)
        self._is_saved = True

    def _held(self) -> Sparsifier:
        if self.sparsifier is None:
            raise RuntimeError("no training has begun, so there are no masks yet. Call trainer.train() first.")
        return self.sparsifier


class SparseTrainerMixin:
    """What a callback cannot reach: ``class SparseTrainer(SparseTrainerMixin, Trainer): pass``.

    Gradients of inactive weights are zero before they are clipped; the folder to resume from is handed on; masks are in
    the folder of every saved model before its weights are; measurements are in the logs of every reporter.

    Works with any subclass of ``transformers.Trainer``, such as those of TRL; without a :class:`SparsifierCallback` it
    does nothing.
    """

    def _sparsifier_callbacks(self) -> Iterator[SparsifierCallback]:
        callbacks = self.callback_handler.callbacks  # type: ignore[attr-defined]
        return (each for each in callbacks if isinstance(each, SparsifierCallback))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        for callback in self._sparsifier_callbacks():
            callback.checkpoint = None if checkpoint is None else Path(checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        for callback in self._sparsifier_callbacks():
            callback.mask_gradients_()
        return super()._clip_grad_norm(model)  # type: ignore[misc]

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # nothing was clipped
            for callback in self._sparsifier_callbacks():
                callback.mask_gradients_()
        return super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as the Trainer does, with what the Sparsifier measured beside each training loss."""
        for callback in self._sparsifier_callbacks():
            if "loss" in logs:
                logs.update(callback.measurements())
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Save as the Trainer does, after the state of the Sparsifier."""
        for callback in self._sparsifier_callbacks():
            if callback.sparsifier is not None:
                own: Any = self.args  # type: ignore[attr-defined]
                callback.save(Path(output_dir or own.output_dir) if own.should_save else None)
        super().save_model(output_dir, *args, **kwargs)  # type: ignore[misc]


# -- where a checkpoint is -----------------------------------------------------------------------------------------


def _folder(args: Any, state: Any) -> Path:
    """The checkpoint of this step that the Trainer has just written; a search has a folder for each trial."""
    name, pattern = f"checkpoint-{state.global_step}", "*/" if state.is_hyper_param_search else ""
    found = Path(args.output_dir).glob(f"{pattern}{name}/trainer_state.json")
    return max(found, key=lambda path: path.stat().st_mtime).parent


def _found(args: Any, state: Any) -> Path:
    """The checkpoint from which the Trainer resumed, which it does not say: the one of this step, with the same logs.

    Raises:
        FileNotFoundError: if there is none such.
    """
    folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
    file = folder / "trainer_state.json"
    if file.is_file() and json.loads(file.read_bytes())["log_history"] == state.log_history:
        return folder
    raise FileNotFoundError(
        f"training resumes at step {state.global_step}, from another checkpoint than {folder}, and a callback is not "
        "told which, so the masks that belong to it are not known. Write class SparseTrainer(SparseTrainerMixin, "
        "Trainer): pass, and use it; or give output_dir= the folder that holds the checkpoint."
    )


def _read(checkpoint: Path) -> dict[str, Any]:
    """The Sparsifier's state in a checkpoint."""
    if not (checkpoint / STATE).is_file():
        raise FileNotFoundError(
            f"{checkpoint} has no {STATE}: it was saved without SparsifierCallback, or its writer was killed. Resume "
            "from an earlier one, trainer.train(resume_from_checkpoint=PATH); or load its weights by from_pretrained "
            "and call trainer.train(), which begins with new masks."
        )
    return read_checkpoint(checkpoint / STATE, cure="Resume from an earlier checkpoint.")


def _check_free(model: nn.Module, masks: Masks) -> None:
    """Check that nothing else keeps these weights sparse."""
    for name in masks:
        tensor = dict(model.named_parameters()).get(name)
        if tensor is not None and holder_of(tensor) is not None:
            raise ValueError(
                f"{name!r} is kept sparse by another Sparsifier already. Give the Trainer one SparsifierCallback, and "
                "call remove() of a Sparsifier of your own before trainer.train()."
            )
