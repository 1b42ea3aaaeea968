"""What must hold between the settings of a run, checked once when its config is made."""

from __future__ import annotations

from collections.abc import Collection

from sparseflow.init.schemes import SCHEMES
from sparseflow.masks.blocks import SINGLE, block_sizes
from sparseflow.suggest import did_you_mean
from sparseflow.training.names import METHODS
from sparseflow.training.run_method import updater_of
from sparseflow.training.run_settings import RunSettings

#: ``auto``: the sparse engine where it takes the network and the masks are sparse enough; ``masked``: never.
ENGINES = ("auto", "sparse", "masked")


def check_settings(run: RunSettings) -> None:
    """Check that a run can be made.

    Raises:
        TypeError, ValueError: naming the field that does not fit.

    >>> from sparseflow.training.digits import DigitRun
    >>> DigitRun(snapshots=(99999,))
    Traceback (most recent call last):
    ValueError: snapshots must be steps from 0 to 11719, got [99999].
    """
    known: dict[str, Collection[str]] = {"method": METHODS, "init": SCHEMES, "engine": ENGINES, **run.choices()}
    for name, choices in known.items():
        if getattr(run, name) not in choices:
            value = getattr(run, name)
            suggestion = did_you_mean(value, choices)
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.{suggestion}")
    if run.engine == "sparse" and hasattr(updater_of(run), "used"):
        raise ValueError(
            f"{run.method} trains weights that the network does not use, and the sparse engine has no place for "
            "them. Leave engine at 'auto', or write engine='masked'."
        )
    if run.engine == "sparse" and updater_of(run).gradient_decay:
        raise ValueError(
            f"{run.method} looks at the dense gradient of every step, which the sparse engine does not compute. "
            "Leave engine at 'auto', or write engine='masked'."
        )
    if not run.row.moves_blocks and block_sizes(run.block) != SINGLE:
        raise ValueError(f"{run.method} moves single weights, not blocks of {run.block}. Leave block (--block) out.")
    if run.snapshots and not 0 <= run.snapshots[0] <= run.snapshots[-1] <= run.steps:
        raise ValueError(f"snapshots must be steps from 0 to {run.steps}, got {list(run.snapshots)}.")


def check_start(run: RunSettings) -> None:
    """Check that a run starts as its method does, and from a pruning run that is like it.

    Raises:
        TypeError, ValueError: naming the field that does not fit.

    >>> from sparseflow.training.digits import DigitRun
    >>> DigitRun(method="lottery")
    Traceback (most recent call last):
    ValueError: lottery starts from a pruning run: give mask_from, or --pruned-mask on the command line.
    """
    parent = run.mask_from
    if parent is None:
        if run.row.start == "ticket":
            raise ValueError(
                f"{run.method} starts from a pruning run: give mask_from, or --pruned-mask on the command line."
            )
        return
    if not isinstance(parent, type(run)):
        raise TypeError(f"mask_from must be a {type(run).__name__}, got {type(parent).__name__}.")
    if parent.method != "prune":
        raise ValueError(f"mask_from must be a run of method 'prune', got {parent.method!r}.")
    if run.row.start == "dense":
        raise ValueError(f"method {run.method!r} starts from no mask. Leave mask_from (--pruned-mask) out.")
    for name in run.shared_with_parent:
        if (theirs := getattr(parent, name)) != (ours := getattr(run, name)):
            raise ValueError(f"mask_from must be a run of the same {name}: it has {theirs!r}, this run {ours!r}.")
    if run.rewind_step and run.rewind_step not in parent.snapshots:
        raise ValueError(
            f"rewind_step {run.rewind_step} was not kept by the pruning run: add it to its snapshots, which are "
            f"{list(parent.snapshots)}."
        )
