"""The method against the run: updates that never come, move nothing, move too much, or go on to the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sparseflow.doctor.causes import CAUSES
from sparseflow.doctor.finding import Finding
from sparseflow.masks.blocks import block_of
from sparseflow.methods import GMP
from sparseflow.methods.base import Method
from sparseflow.methods.drop_grow import DropGrow
from sparseflow.types import Masks


@dataclass(frozen=True)
class Course:
    """A run as far as it matters for the masks."""

    method: Method
    steps: int | None
    """Optimizer steps of the whole run, where they are known."""
    step: int
    """Optimizer steps taken."""
    active: Mapping[str, int]
    """Parameter name -> active weights."""
    rate_falls: bool
    """Whether the learning rate has a schedule, which the default schedule of the drop fraction follows."""


def schedule(course: Course) -> Iterator[Finding]:
    """What is wrong with the times and sizes of updates, before any of them is made; the first cause alone.

    Args:
        course: The run.
    """
    method = course.method
    if isinstance(method, GMP):
        if course.steps is not None and method.end > course.steps:
            yield Finding(
                "update_after_the_end",
                "",
                f"pruning ends at step {method.end} of a run of {course.steps}, so it does not come to its sparsity.",
                method.end / course.steps,
                f"sf.GMP(sparsity=..., begin={course.steps // 4}, end={course.steps * 3 // 4})",
            )
        return
    if not isinstance(method, DropGrow):
        return
    yield from next(
        (
            [finding]
            for check in (_never_comes, _swaps_nothing, _too_large, _to_the_end)
            if (finding := check(method, course)) is not None
        ),
        [],
    )


def _never_comes(method: DropGrow, course: Course) -> Finding | None:
    ends = [end for end in (method.until, course.steps) if end is not None]
    end = min(ends, default=None)
    if end is None or method.first <= end:
        return None
    period = max(1, (course.steps or end) // 20)
    return Finding(
        "update_after_the_end",
        "",
        f"the first update is at step {method.first}, and masks may change until step {end}.",
        method.first / max(1, end),
        f"update_every={period} (20 updates), or Static() to keep the masks",
    )


def _swaps_nothing(method: DropGrow, course: Course) -> Finding | None:
    counts = {name: _swaps(method, count, name, step=method.first) for name, count in course.active.items()}
    if any(counts.values()) or not counts:
        return None
    largest = max(course.active.values())
    if method.drop_fraction == 0:
        why = "drop_fraction is 0"
    elif method.drop_fraction * largest < 1:
        why = f"drop_fraction={method.drop_fraction:g} of {largest} active weights, the largest count, is less than one"
    else:
        why = f"the schedule of the drop fraction leaves less than one weight at the first update, step {method.first}"
    return Finding(
        "no_swaps",
        "",
        f"{why}, so an update exchanges nothing.",
        0.0,
        "drop_fraction=0.3 (Evci et al., 2020), or Static() to keep the masks",
    )


def _too_large(method: DropGrow, course: Course) -> Finding | None:
    rate, limit = method.drop_fraction / method.update_every, CAUSES["drop_too_large"].threshold
    if rate < limit:
        return None
    return Finding(
        "drop_too_large",
        "",
        f"each update exchanges {method.drop_fraction:g} of the weights, {method.update_every} "
        f"step{'s' * (method.update_every > 1)} after the last one: what grew starts at zero and is dropped again "
        "before it is trained.",
        rate,
        f"update_every={max(100, method.update_every)}, or drop_fraction={0.003 * method.update_every:.2g}: a share of "
        "0.3 every 100 steps",
    )


def _to_the_end(method: DropGrow, course: Course) -> Finding | None:
    if course.steps is None or (method.schedule == "learning_rate" and course.rate_falls):
        return None
    end = course.steps if method.until is None else min(method.until, course.steps)
    last = end - (end - method.first) % method.update_every
    share = max((_swaps(method, count, name, step=last) / count for name, count in course.active.items()), default=0.0)
    if course.steps - last >= method.update_every or share <= CAUSES["updates_to_the_end"].threshold:
        return None
    return Finding(
        "updates_to_the_end",
        "",
        f"the last update, at step {last} of {course.steps}, exchanges {share:.0%} of the active weights, and "
        f"{course.steps - last} steps are left to train what grew.",
        share,
        f"total_steps={course.steps}, for updates in the first 75 % of the run",
    )


def _swaps(method: DropGrow, active: int, name: str, *, step: int) -> int:
    """Weights that an update exchanges in a layer, at the full learning rate; whole blocks where there are such."""
    size = math.prod(block_of(method.block, name))
    count = method.num_drop(active, step=step, learning_rate_ratio=1.0) if active else 0
    return count - count % size


def masks_never_moved(course: Course, masks: Masks, start_masks: Masks) -> Iterator[Finding]:
    """Whether masks are those of the start although updates were due.

    Args:
        course: The run.
        masks: Those of now.
        start_masks: Those of the start.
    """
    due = [step for step in range(1, course.step + 1) if course.method.due(step)]
    if not due or not _should_move(course.method):
        return
    moved = sum(int((mask != start_masks[name].to(mask.device)).sum()) for name, mask in masks.items())
    if moved == 0:
        yield Finding(
            "masks_never_moved",
            "",
            f"{len(due)} update{'s were' if len(due) > 1 else ' was'} due up to step {course.step}, and no connection "
            f"of {sum(mask.numel() for mask in masks.values())} has changed since the start.",
            0.0,
            "train with the optimizer that the Sparsifier was given, and look whether something restores old masks or "
            "weights (load_state_dict, remove()); sparsifier.check() proves what holds now",
        )


def _should_move(method: Method) -> bool:
    return isinstance(method, GMP) or bool(getattr(method, "drop_fraction", 0))
