"""``python -m benchmarks.scaling``: fill the table of docs/scaling.md, from counted operations and two rates."""

from __future__ import annotations

from pathlib import Path

from benchmarks.table import filled
from sparseflow.networks import NETWORKS
from sparseflow.paper.cost import SUSTAINED, training_flops
from sparseflow.paper.matrix.cells import METHODS
from sparseflow.paper.matrix.scales import IMAGENET
from sparseflow.training.images import ImageRun, paper_run

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
#: Devices -> bytes a second of each in an all-reduce: within a machine of eight, and over 200 Gbit/s
#: between machines of eight. Assumptions; change them to what yours measure.
LINKS = {1: float("inf"), 8: 200e9, 64: 20e9}


def hours(run: ImageRun, devices: int) -> tuple[float, float]:
    r"""Hours that a run on ``devices`` devices spends computing, and exchanging gradients without overlap.

    .. math:: \frac{F}{N r}, \qquad S\, \frac{2 (N - 1)}{N}\, \frac{4 P}{b}

    of :math:`F` operations, :math:`N` devices at rate :math:`r`, :math:`S` steps, :math:`P` parameters and links of
    :math:`b` bytes a second (a ring). torch hides most of the second behind the backward pass.
    """
    computing = training_flops(run) / (devices * SUSTAINED)
    exchanged = run.num_batches * 2 * (devices - 1) / devices * 4 * _parameters(run) / LINKS[devices]
    return computing / 3600, exchanged / 3600


def markdown() -> str:
    """The table: one run of each network, its part of Table 1, and all of the paper's runs."""
    lines = [
        "| what | runs | 1 device | 8 devices | 64 devices | of that, exchange at most |",
        "|---|---|---|---|---|---|",
    ]
    groups = IMAGENET.groups
    for network in ("resnet50", "vgg16"):
        runs = list(dict.fromkeys(run for name, found in groups.items() if name.startswith(network) for run in found))
        table1 = [run for run in runs if run.mask_from is None and run.method in METHODS]
        table1 = [run for run in table1 if run.sparsity == paper_run(network).sparsity]
        for label, members in (("one run of RigL", [paper_run(network)]), ("Table 1", table1), ("everything", runs)):
            cells, exchange = [], 0.0
            for devices in LINKS:
                computing, exchange = (
                    sum(parts) for parts in zip(*(hours(run, devices) for run in members), strict=True)
                )
                cells.append(_text(computing + exchange))
            lines.append(f"| {network}, {label} | {len(members)} | {' | '.join(cells)} | {_text(exchange)} |")
    return "\n".join(lines)


def _parameters(run: ImageRun) -> int:
    import torch

    with torch.device("meta"):
        model = NETWORKS[run.network].build(run.num_classes, width=run.width, stem=run.stem)
    return sum(parameter.numel() for parameter in model.parameters())


def _text(hours: float) -> str:
    """Hours as text, in a unit that suits them.

    >>> _text(0.5), _text(14.9), _text(860.2)
    ('30 min', '15 h', '36 days')
    """
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:.0f} days"


def main() -> None:
    """Write the table into docs/scaling.md."""
    PAGE.write_text(filled(PAGE.read_text(), "scaling", markdown()))


if __name__ == "__main__":
    main()
