"""The sparsity report of a model: for each parameter whether it is masked, why, and how sparse it is."""

from __future__ import annotations

import textwrap
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from sparseflow._checks import check_mask, check_masks, check_sparsity
from sparseflow.attached import check_current, holder_of
from sparseflow.boundary import checked
from sparseflow.masks.blocks import BlockLike, check_made_of, grids_of
from sparseflow.masks.fans import PLAIN, Layout, fan_in, unit_counts
from sparseflow.masks.select import Rule, Weight, left_out, maskable, weights
from sparseflow.sharded import full, num_true
from sparseflow.types import Masks

_TABLE_WIDTH = 100
_WHY_WIDTH = 12
_SHORTEST_NAME = 16


@dataclass(frozen=True)
class MaskStatistics:
    """The spread of one mask's weights over units and inputs."""

    units_without_inputs: int
    """Units that no active weight enters: they output their bias, whatever the input."""
    inputs_without_outputs: int
    """Inputs that no active weight leaves: this layer makes no use of what computes them."""
    fan_in_mean: float
    """Mean number of active inputs of a unit, receptive field included."""
    fan_in_cv: float
    """Standard deviation over mean of the fan-in over units (population); 0 for equal units, or none active."""


@checked()
def mask_statistics(mask: Tensor, layout: Layout = PLAIN) -> MaskStatistics:
    """Dead ends and the spread of the fan-in of one mask.

    Arguments as :func:`sparseflow.masks.fans.fan_in`.

    >>> import torch
    >>> mask_statistics(torch.tensor([[True, True, False], [False, False, False]]))
    MaskStatistics(units_without_inputs=1, inputs_without_outputs=1, fan_in_mean=1.0, fan_in_cv=1.0)
    """
    check_mask(mask)
    fans = fan_in(mask, layout).double()
    mean = float(fans.mean())
    return MaskStatistics(*unit_counts(mask, layout), mean, float(fans.std(correction=0)) / mean if mean else 0.0)


@dataclass(frozen=True)
class ReportRow:
    """One parameter of the model in a :class:`SparsityReport`."""

    name: str
    shape: tuple[int, ...]
    masked: bool
    reason: str
    """Why it is masked or not: its layer's type, or the rule that decided."""
    num_weights: int
    active: int
    target: float | None
    """The sparsity asked for, if it was given."""
    sparsity: float
    """The sparsity it has: 0 without a mask."""
    statistics: MaskStatistics | None
    """``None`` without a mask."""
    zeros: int | None = None
    """Weights that are exactly zero now; ``None`` without a mask, or where the weight has no values (meta device)."""
    block: tuple[int, int] | None = None
    """Outputs and inputs of the blocks that its mask is made of; ``None`` for single weights."""


@dataclass(frozen=True)
class ReportTotals:
    """Sums over parameters; ``sparsity`` and ``target`` count masked weights only, as everywhere in the library."""

    num_parameters: int
    active_parameters: int
    num_masked: int
    active: int
    target: float | None
    sparsity: float
    units_without_inputs: int
    inputs_without_outputs: int


@dataclass(frozen=True)
class SparsityReport:
    """The result of :func:`sparsity_report`: print it, or take ``rows``, ``totals`` or ``to_dict()``."""

    rows: tuple[ReportRow, ...]
    totals: ReportTotals
    left_out: str = ""
    """What :func:`sparseflow.prunable` warns of: matrices that stay dense though no rule says so."""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for ``json.dumps``."""
        rows = [asdict(row) | {"shape": list(row.shape), "block": row.block and list(row.block)} for row in self.rows]
        return {"rows": rows, "totals": asdict(self.totals), "left_out": self.left_out}

    def __str__(self) -> str:
        """A table of at most 100 columns, the totals last."""
        has = {
            "target": any(row.target is not None for row in self.rows),
            "block": any(row.block is not None for row in self.rows),
        }
        more = [name for name, there in has.items() if there]
        head = ["weight", "shape", "weights", "active", *more, "sparsity", "no in", "no out", "why"]
        rows = [_cells(row, more) for row in self.rows]
        lines = _table([head, *rows, *_total_cells(self.totals, more)])
        rule = "-" * max(map(len, lines))
        note = "no in: units without active inputs; no out: inputs without active outputs"
        notes = [note, *textwrap.wrap(self.left_out, _TABLE_WIDTH), *self._more_zeros()]
        return "\n".join([lines[0], rule, *lines[1:-2], rule, *lines[-2:], *notes])

    def _more_zeros(self) -> list[str]:
        """A line where the weights have clearly more zeros than their masks."""
        counted = [row for row in self.rows if row.zeros is not None]
        zeros, size = sum(row.zeros or 0 for row in counted), sum(row.num_weights for row in counted)
        inactive = size - sum(row.active for row in counted)
        if zeros - inactive <= size / 100:
            return []
        return [
            f"The weights have more zeros than the masks: {_fraction(zeros / size)} of the masked weights are zero."
        ]


@checked()
def sparsity_report(
    model: nn.Module,
    masks: Masks,
    *,
    target: Mapping[str, float] | float | None = None,
    block: BlockLike | None = None,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
    first_layer_dense: bool = False,
) -> SparsityReport:
    """Every parameter of the model: masked or not and why, target and actual sparsity, units and inputs cut off.

    Args:
        model: The model.
        masks: Parameter name -> mask.
        target: The sparsity asked for: one for every masked weight, or one each by name, as an allocation returns it.
        block: What the masks are made of, as :func:`sparseflow.random_masks` takes it; default: the blocks of the
            Sparsifier that holds the weights, else single weights. It is checked, and named in a column.
        include, exclude, first_layer_dense: The rules by which the masks were made, see
            :func:`~sparseflow.masks.select.weights`; they explain what is not masked.

    Raises:
        TypeError, ValueError: if a mask does not fit, is old (not the one that its Sparsifier holds now) or is not
            made of the blocks, there are none, or a target is no sparsity or names no mask.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 2))
    >>> print(sparsity_report(model, sf.random_masks(model, 0.9, seed=0), target=0.9))
    weight            shape  weights  active  target  sparsity  no in  no out  why
    ---------------------------------------------------------------------------------
    0.weight          10x20      200      20  0.9000    0.9000      0       6  Linear
    0.bias               10       10  norms, biases and scales are never masked
    2.weight           2x10       20       2  0.9000    0.9000      1       8  Linear
    2.bias                2        2  norms, biases and scales are never masked
    ---------------------------------------------------------------------------------
    masked                       220      22  0.9000    0.9000      1      14
    all parameters               232      34
    no in: units without active inputs; no out: inputs without active outputs
    """
    parameters = {name: weight.parameter for name, weight in maskable(model).items()}
    check_masks(masks, parameters)
    if not masks:
        raise ValueError("there are no masks to report; make some, for instance with sparseflow.random_masks().")
    check_current(masks, parameters)
    targets = _targets(target, masks)
    grids = grids_of(model, _held_blocks(masks, parameters) if block is None else block, masks)
    check_made_of(grids, {name: full(masks[name]) for name in grids})
    found = weights(model, include=include, exclude=exclude, first_layer_dense=first_layer_dense)
    blocks = {name: (grid.block.outputs, grid.block.inputs) for name, grid in grids.items()}
    rows = tuple(_row(w, masks.get(w.name), targets.get(w.name), blocks.get(w.name)) for w in found)
    return SparsityReport(rows, _totals(rows), left_out(found, masked=masks))


def _held_blocks(masks: Masks, parameters: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """The blocks of the weights that a Sparsifier holds."""
    found = {}
    for name in masks:
        holder = holder_of(parameters[name])
        held = None if holder is None else holder.name_of(parameters[name])
        if holder is not None and held is not None and held in holder.block:
            found[name] = holder.block[held]
    return found


def _targets(target: Mapping[str, float] | float | None, masks: Masks) -> Mapping[str, float]:
    if target is None:
        return {}
    targets = target if isinstance(target, Mapping) else dict.fromkeys(masks, target)
    for name, value in targets.items():
        if name not in masks:
            raise ValueError(f"target has {name!r}, which has no mask. Masked: {', '.join(masks)}.")
        check_sparsity(value, name=f"target[{name!r}]" if target is targets else "target")
    return targets


def _row(weight: Weight, mask: Tensor | None, target: float | None, block: tuple[int, int] | None) -> ReportRow:
    shape, numel = tuple(weight.parameter.shape), weight.parameter.numel()
    if mask is None:
        reason = f"no mask was given for it: {weight.reason}" if weight.prunable else weight.reason
        return ReportRow(weight.name, shape, False, reason, numel, numel, None, 0.0, None)
    if mask.is_meta:
        return ReportRow(weight.name, shape, False, "its mask has no values (meta)", numel, numel, None, 0.0, None)
    reason = weight.reason if weight.prunable else f"masked in spite of: {weight.reason}"
    active = num_true(mask)
    sparsity = 1 - active / numel if numel else 0.0
    statistics = mask_statistics(full(mask), weight.layout or PLAIN)
    zeros = None if weight.parameter.is_meta else num_true(weight.parameter.detach() == 0)
    return ReportRow(weight.name, shape, True, reason, numel, active, target, sparsity, statistics, zeros, block)


def _totals(rows: tuple[ReportRow, ...]) -> ReportTotals:
    masked = [row for row in rows if row.masked]
    numel, active = sum(row.num_weights for row in masked), sum(row.active for row in masked)
    wanted = [row.target * row.num_weights for row in masked if row.target is not None]
    return ReportTotals(
        num_parameters=sum(row.num_weights for row in rows),
        active_parameters=sum(row.active for row in rows),
        num_masked=numel,
        active=active,
        target=sum(wanted) / numel if numel and len(wanted) == len(masked) else None,
        sparsity=1 - active / numel if numel else 0.0,
        units_without_inputs=sum(row.statistics.units_without_inputs for row in masked if row.statistics),
        inputs_without_outputs=sum(row.statistics.inputs_without_outputs for row in masked if row.statistics),
    )


def _cells(row: ReportRow, more: Container[str]) -> list[str]:
    head = [row.name, "x".join(map(str, row.shape)), f"{row.num_weights:,}"]
    if row.statistics is None:
        return [*head, row.reason]
    target = [_fraction(row.target)] if "target" in more else []
    block = ["x".join(map(str, row.block or (1, 1)))] if "block" in more else []
    cut = [str(row.statistics.units_without_inputs), str(row.statistics.inputs_without_outputs)]
    return [*head, f"{row.active:,}", *target, *block, _fraction(row.sparsity), *cut, row.reason]


def _total_cells(totals: ReportTotals, more: Container[str]) -> list[list[str]]:
    target = [_fraction(totals.target)] if "target" in more else []
    block = [""] if "block" in more else []
    cut = [str(totals.units_without_inputs), str(totals.inputs_without_outputs)]
    masked = [f"{totals.num_masked:,}", f"{totals.active:,}", *target, *block, _fraction(totals.sparsity), *cut, ""]
    every = [f"{totals.num_parameters:,}", f"{totals.active_parameters:,}", *[""] * (len(masked) - 2)]
    return [["masked", "", *masked], ["all parameters", "", *every]]


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(rows: list[list[str]]) -> list[str]:
    """Align names and reasons to the left, numbers to the right; a short row's last cell runs on over the missing ones.

    Long names lose their beginning, long reasons their end.
    """
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    widths[1:3] = [max(len(row[i]) for row in rows) for i in (1, 2)]
    others = sum(widths[1:-1]) + min(widths[-1], _WHY_WIDTH) + 2 * (len(widths) - 1)
    widths[0] = max(_SHORTEST_NAME, min(max(len(row[0]) for row in rows), _TABLE_WIDTH - others))
    lines = []
    for name, *numbers, why in rows:
        name = name if len(name) <= widths[0] else "…" + name[len(name) + 1 - widths[0] :]
        right = (cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=False))
        line = "  ".join([name.ljust(widths[0]), *right, why]).rstrip()
        lines.append(line if len(line) <= _TABLE_WIDTH else line[: _TABLE_WIDTH - 1] + "…")
    return lines
