"""A circuit as a graph: its units, the weights between them, and a drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from sparseflow.circuits.prune import Circuit
from sparseflow.networks.decoder import Decoder, DecoderBlock

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Places of a block from input to output -> the colour of their units, of Okabe and Ito's.
PLACES = {
    "attention_input": "#8C8C8C", "query": "#56B4E9", "key": "#0072B2", "value": "#009E73",
    "attention_output": "#8C8C8C", "mlp_input": "#8C8C8C", "neuron": "#D55E00", "mlp_output": "#8C8C8C",
}  # fmt: skip
#: An ink that reads on white and on black.
_INK = "#808080"


class Edge(NamedTuple):
    """A weight that is not zero between two units that are kept."""

    source: tuple[str, int]
    """Place and number of the unit that is read."""
    target: tuple[str, int]
    weight: float


def edges(model: Decoder, circuit: Circuit) -> list[Edge]:
    """The weights of a circuit: all that are not zero between its units, embedding and output layer left out.

    Queries and keys act on values by attention, which has no weights, so they end there.
    """
    found = []
    for number, block in enumerate(model.blocks):
        assert isinstance(block, DecoderBlock)
        query, key, value = block.project.weight.chunk(3)
        products = (
            ("attention_input", "query", query), ("attention_input", "key", key), ("attention_input", "value", value),
            ("value", "attention_output", block.out.weight), ("mlp_input", "neuron", block.widen.weight),
            ("neuron", "mlp_output", block.narrow.weight),
        )  # fmt: skip
        for source, target, weight in products:
            ends = (f"blocks.{number}.units.{source}", f"blocks.{number}.units.{target}")
            found += _edges(ends, weight.detach(), circuit)
    return found


def _edges(ends: tuple[str, str], weight: Tensor, circuit: Circuit) -> list[Edge]:
    source, target = ends
    kept = circuit.kept[target].unsqueeze(1) & circuit.kept[source] & (weight != 0)
    return [Edge((source, i), (target, o), float(weight[o, i])) for o, i in kept.nonzero().tolist()]


def draw(model: Decoder, circuit: Circuit, *, title: str) -> Figure:
    """A circuit from left to right, block after block: dots are units, lines are weights, the larger the stronger.

    Args:
        model: Whose circuit it is.
        circuit: See :func:`sparseflow.circuits.prune.smallest`.
        title: Above it.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    columns = [f"blocks.{number}.units.{place}" for number in range(len(model.blocks)) for place in PLACES]
    rows = {name: circuit.kept[name].nonzero().flatten().tolist() for name in columns}
    at = {
        (name, unit): (column, (place + 1) / (len(rows[name]) + 1))
        for column, name in enumerate(columns)
        for place, unit in enumerate(rows[name])
    }
    figure = Figure(figsize=(1.2 + 0.85 * len(columns) / 2, 4.2), layout="constrained", facecolor="none")
    axes = figure.subplots()
    lines = edges(model, circuit)
    if lines:
        most = max(abs(edge.weight) for edge in lines)
        axes.add_collection(
            LineCollection(
                [[at[edge.source], at[edge.target]] for edge in lines],
                colors=["#0072B2" if edge.weight > 0 else "#D55E00" for edge in lines],
                linewidths=[0.2 + 1.3 * abs(edge.weight) / most for edge in lines],
                alpha=0.7 if len(lines) < 500 else 0.15,
                zorder=1,
            )
        )
    for (name, _), (x, y) in at.items():
        axes.scatter(x, y, s=12, color=PLACES[name.rpartition(".")[2]], zorder=2)
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_xticks(range(len(columns)), [name.rpartition(".")[2].replace("_", " ") for name in columns], rotation=60)
    axes.tick_params(colors=_INK, labelsize=7)
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.set_title(f"{title}: {circuit.size} units, {len(lines)} weights", loc="left", fontsize=10, color=_INK)
    return figure
