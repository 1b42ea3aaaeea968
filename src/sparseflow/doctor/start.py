"""Numbers that are not finite, and weights that are too small for the inputs that they have."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sparseflow.analysis.signal import layer_outputs
from sparseflow.batches import Batch, forward, output_of
from sparseflow.doctor.causes import CAUSES
from sparseflow.doctor.finding import Finding
from sparseflow.gradients import undisturbed
from sparseflow.init.model import initialize_
from sparseflow.masks.select import maskable, unwrap
from sparseflow.types import Masks

#: A weight whose active entries are at least this large, next to new ones, is not what makes the signal weak.
_NOT_SMALL = 0.5


def not_finite(model: nn.Module, batches: list[Batch], *, training: bool | None) -> Iterator[Finding]:
    """The first layer whose output is NaN or infinite.

    Args:
        model: The network.
        batches: Examples.
        training: Train or eval mode; ``None`` keeps the model's.
    """
    with undisturbed(model, training=training), torch.no_grad(), layer_outputs(model) as outputs:
        for inputs, _, _ in batches:
            forward(unwrap(model), inputs)
    for name, uses in outputs.items():
        bad, size = sum(int((~use.isfinite()).sum()) for use in uses), sum(use.numel() for use in uses)
        if bad:
            parameters = maskable(model)
            broken = [key for key, weight in parameters.items() if not bool(weight.parameter.isfinite().all())]
            held = f"weights with such entries: {', '.join(broken)}" if broken else "all weights are finite"
            yield Finding(
                "not_finite",
                name,
                f"{bad} of {size} outputs are NaN or infinite; {held}.",
                bad / size,
                "go back to a checkpoint before the loss was NaN; lower the learning rate, or clip: "
                "sparsifier.mask_gradients_(); torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
            )
            return


def weak_start(model: nn.Module, masks: Masks, batches: list[Batch], *, training: bool | None) -> Iterator[Finding]:
    """Whether the output hardly depends on the input because weights are smaller than ``initialize_`` draws them.

    Args:
        model: The network.
        masks: Parameter name -> mask.
        batches: Examples.
        training: Train or eval mode; ``None`` keeps the model's.
    """
    ratio, sizes = scales(model, masks, batches, training=training)
    small = {name: size for name, size in sizes.items() if size < _NOT_SMALL}
    if not small or not ratio < CAUSES["weak_start"].threshold:
        return
    worst = min(small, key=lambda name: small[name])
    yield Finding(
        "weak_start",
        worst,
        f"the output's spread over examples is {ratio:.1e} of what new weights give, scaled to each unit's own active "
        f"inputs. {len(small)} of {len(sizes)} masked weights are smaller than new ones, {worst} most: "
        f"{small[worst]:.2g} times.",
        ratio,
        'sf.initialize_(model, masks, scheme="sparse", seed=0) before training',
    )


def scales(
    model: nn.Module, masks: Masks, batches: list[Batch], *, training: bool | None
) -> tuple[float, dict[str, float]]:
    """The spread of the output, and the size of each masked weight, over those of a copy that is drawn anew.

    Args:
        model: The network.
        masks: Parameter name -> mask.
        batches: Examples.
        training: Train or eval mode; ``None`` keeps the model's.

    Returns: the ratio of standard deviations over examples (1 where the copy has none), and weight -> ratio of root
    mean squares of active entries, without weights that have none or are zero on purpose.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> masks = sf.random_masks(model, 0.5, seed=0)
    >>> model = sf.initialize_(sf.apply_masks_(model, masks), masks, seed=0)
    >>> _ = model[0].weight.data.mul_(0.01)
    >>> ratio, sizes = scales(model, masks, [Batch(torch.rand(9, 8), None, 9)], training=None)
    >>> round(ratio, 4), {name: round(size, 4) for name, size in sizes.items()}
    (0.01, {'0.weight': 0.01, '2.weight': 1.0})
    """
    anew = copy.deepcopy(unwrap(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it leaves alone is zero on purpose, and left out below
        initialize_(anew, masks, scheme="sparse", seed=0)
    here, there = ({name: w.parameter for name, w in maskable(each).items()} for each in (model, anew))
    sizes = {}
    for name, mask in masks.items():
        was, new = (float(weights[name].detach()[mask].double().square().mean().sqrt()) for weights in (here, there))
        if bool(mask.any()) and was > 0 and new > 0:
            sizes[name] = was / new
    spread, usual = (_spread(each, batches, training=training) for each in (model, anew))
    return (spread / usual if usual else 1.0), sizes


def _spread(model: nn.Module, batches: list[Batch], *, training: bool | None) -> float:
    """Root mean square over outputs of their standard deviation over examples."""
    with undisturbed(model, training=training), torch.no_grad():
        outputs: list[Tensor] = [output_of(forward(unwrap(model), inputs)).double() for inputs, _, _ in batches]
    rows = torch.cat([each.reshape(-1, each.shape[-1]) if each.dim() > 1 else each[:, None] for each in outputs])
    return float(rows.var(0, correction=0).mean().sqrt())
