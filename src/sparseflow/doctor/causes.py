"""The causes that the doctor knows: for each the number it looks at, its threshold, and where that comes from."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """One reason why a sparse network does not learn."""

    title: str
    """What is wrong, in a few words."""
    number: str
    """What is measured."""
    threshold: float
    """The number from which, or below which, it is a finding."""
    source: str
    """Where the threshold comes from: a section of a paper, or a measurement of this repository."""


#: Key of :attr:`Finding.cause`; the order is that of a diagnosis, what hides other causes first.
CAUSES: dict[str, Cause] = {
    "not_finite": Cause(
        title="numbers are not finite",
        number="share of a layer's outputs that are NaN or infinite",
        threshold=0.0,
        source="one NaN reaches every weight at the next step",
    ),
    "units_without_inputs": Cause(
        title="units have no inputs",
        number="share of a layer's units that no active weight enters",
        threshold=0.5,
        source="no false alarm on 144 networks: benchmarks/results/doctor_starts.csv",
    ),
    "no_signal": Cause(
        title="no signal passes a layer",
        number="share of a layer's units that neither fire nor get a gradient",
        threshold=1.0,
        source="exact: such a layer never changes again",
    ),
    "dead_units": Cause(
        title="units are dead",
        number="share of a layer's units with inputs that never fire",
        threshold=0.75,
        source="no false alarm on 144 networks: benchmarks/results/doctor_starts.csv",
    ),
    "no_gradient": Cause(
        title="no gradient passes a layer",
        number="share of a layer's units that fire and get no gradient",
        threshold=1.0,
        source="exact: such a layer never changes again",
    ),
    "weak_start": Cause(
        title="weights are too small for their inputs",
        number="spread of the output over examples, as a share of what initialize_ gives",
        threshold=0.005,
        source="9 of 9 such starts cost 5 points of accuracy or more, 1 of 27 others does: "
        "benchmarks/results/doctor_starts.csv",
    ),
    "no_swaps": Cause(
        title="the method moves nothing",
        number="connections that its updates exchange in the whole run",
        threshold=0.0,
        source="exact: a mask that no update changes is a static one",
    ),
    "update_after_the_end": Cause(
        title="the first update comes after the end of the run",
        number="step of the first update over the steps of the run",
        threshold=1.0,
        source="exact: an update that is not reached changes nothing",
    ),
    "updates_to_the_end": Cause(
        title="masks change until the end",
        number="share of active weights that the last update exchanges, with less than a period left to train them",
        threshold=0.01,
        source="Evci et al. (2020), section 3: the last update at 75 % of the run; measured: "
        "benchmarks/results/last_update.csv",
    ),
    "drop_too_large": Cause(
        title="the drop fraction is too large for the period",
        number="drop fraction over the steps between updates",
        threshold=0.02,
        source="all 14 such settings end below static masks, or below the same method every 100 steps: "
        "benchmarks/results/doctor_turnover.csv; Evci et al. (2020) swap 0.3 every 100 steps",
    ),
    "masks_never_moved": Cause(
        title="masks have not moved although updates were due",
        number="connections that changed since the start",
        threshold=0.0,
        source="exact: updates were due, and the masks are those of the start",
    ),
    "optimizer": Cause(
        title="the optimizer has a caveat for sparse weights",
        number="its step where three quarters of a tensor are zeros, over the step on the dense quarter",
        threshold=1.0,
        source="measured: docs/optimizers.md",
    ),
}
