"""One training of a decoder on text, complete: dense, or annealed until one weight in so many is left."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Self

import torch

from sparseflow.data.text import BYTES, SOURCES
from sparseflow.networks.decoder import Decoder
from sparseflow.ranges import Count, Fraction, NotNegative, Positive, Range, Seed, WholeNumber, checked_fields
from sparseflow.suggest import did_you_mean
from sparseflow.training.naming import changed, command, defaults_of, hash_of
from sparseflow.training.top_weights import Annealing, check_floor, counts, floors

#: What the last phase computes with: active weights alone, or dense ones with zeros.
ENGINES = ("sparse", "masked")
#: Schemes of a start that look at masks alone.
INITS = ("sparse", "liu", "dense")


@dataclass(frozen=True, kw_only=True)
class TextRun:
    r"""One training of a :class:`~sparseflow.networks.decoder.Decoder` on bytes.

    The share of active entries falls from 1 to ``1 / one_in`` while every AdamW step is followed by one that keeps the
    largest; from then on the masks are fixed, or RigL moves them, and only active weights are stored.

    Settings that have a source are those of Gao et al. (2025), arXiv 2511.13653, appendix A.2, and of its authors'
    training script, https://github.com/openai/circuit_sparsity. Where the two disagree: the text clips the root mean
    square of the gradient to 1, the script divides by it always, which is what is done here; the text sparsifies
    biases, the script leaves them whole, here they are sparse.

    >>> run = TextRun(one_in=100)
    >>> run.name.startswith("sparse-100-w256"), run.settled, run.annealing.density(0)
    (True, 2000, 1.0)
    """

    package: str = "sympy"
    """sympy, whose Python sources are read."""
    width: Count = 256
    """Channels of the residual stream."""
    depth: Count = 4
    """Blocks."""
    heads: Count = 8
    """Of attention; they divide the width."""
    context: Count = 128
    """Bytes that a prediction may see."""
    active_units: Annotated[float, Range(0, 1, with_low=False)] = 1.0
    """Share of the units at each place that stay active, by size; the paper has 0.25."""
    one_in: Count = 1
    """At the end one entry in so many of each matrix, embedding and bias is active; 1 is dense."""
    start_one_in: Count = 1
    """The same at the start, where masks are random and weights drawn for them."""
    floor: WholeNumber = 0
    """Active weights that every neuron and attention channel keeps; the paper has 4."""
    init: str = "sparse"
    """sparse, liu or dense: whether a start weight's variance counts the active inputs of its unit, layer or none."""
    anneal_begin: Fraction = 0.01
    """Share of the steps after which entries begin to go."""
    anneal_end: Fraction = 0.5
    """Share of the steps after which no more go."""
    update_every: WholeNumber = 0
    """Steps between mask updates after that, by RigL; 0 keeps the masks."""
    drop_fraction: Fraction = 0.1
    """Share of active weights swapped at an update, cosine to 0."""
    engine: str = "sparse"
    """sparse or masked: what computes the last phase; bits differ, results only by rounding."""
    seed: Seed = 0
    """Of everything random."""
    steps: Count = 4000
    """Optimizer steps."""
    batch_size: Count = 16
    """Windows of text in a step."""
    learning_rate: Positive = 0.005
    """Of a dense decoder after the warm-up, linear to 0; over the root of the share that is active."""
    warmup: Fraction = 0.01
    """Share of the steps until the peak."""
    weight_decay: NotNegative = 0.1
    """AdamW's, of matrices and embeddings."""
    epsilon: Positive = 0.1
    """AdamW's, of gradients whose root mean square over active entries is 1."""
    log_every: Count = 50
    """Steps between losses."""
    eval_every: Count = 500
    """Steps between validations."""
    eval_windows: Count = 256
    """Windows of validation text in a validation; at the end it is all of it."""
    checkpoint_every: Count = 250
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name, value in checked_fields(self).items():
            object.__setattr__(self, name, value)
        known: dict[str, Collection[str]] = {"package": SOURCES, "init": INITS, "engine": ENGINES}
        for name, choices in known.items():
            if (value := getattr(self, name)) not in choices:
                near = did_you_mean(value, choices)
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.{near}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width, got {self.heads} heads for a width of {self.width}.")
        if self.start_one_in > self.one_in:
            raise ValueError(
                f"start_one_in must be at most one_in, for weights go and do not come: got 1 in {self.start_one_in} at "
                f"the start and 1 in {self.one_in} at the end."
            )
        if self.anneal_begin > self.anneal_end:
            raise ValueError(
                f"anneal_begin must not be above anneal_end, got {self.anneal_begin} and {self.anneal_end}."
            )
        with torch.device("meta"):
            model = Decoder(**self.size)
        least = counts(model, self.annealing.end)  # the floor has most to ask for at the end
        for name, axis in floors(model).items() if self.floor else ():
            check_floor(model.get_parameter(name), least[name], floor=self.floor, axis=axis, name=name)

    @property
    def size(self) -> dict[str, Any]:
        """Arguments of its decoder."""
        return {
            "symbols": BYTES, "width": self.width, "depth": self.depth, "heads": self.heads, "share": self.active_units,
        }  # fmt: skip

    @property
    def settled(self) -> int:
        """The first step whose masks are final; a dense run never comes to it."""
        return round(self.anneal_end * self.steps) if self.one_in > 1 else self.steps

    @property
    def annealing(self) -> Annealing:
        """The share of active entries at each step."""
        begin = round(self.anneal_begin * self.steps)
        return Annealing(1 / self.start_one_in, 1 / self.one_in, min(begin, self.settled), self.settled)

    def rate(self, step: int) -> float:
        r"""Learning rate of the update that follows ``step`` others: linear up and down, larger where less is active.

        .. math:: \eta(t) = \eta_0 \min\Big(\frac{t}{t_w}, \frac{T - t}{T - t_w}\Big) / \sqrt{D(t)}

        The shape is the paper's "sharkfin".

        >>> run = TextRun(one_in=100, steps=1000, learning_rate=0.1)
        >>> [round(run.rate(step), 4) for step in (0, 10, 500, 1000)]
        [0.0, 0.1, 0.5051, 0.0]
        """
        warm = max(1, round(self.warmup * self.steps))
        shape = min(step / warm, (self.steps - step) / max(1, self.steps - warm))
        return self.learning_rate * shape / float(self.annealing.density(step) ** 0.5)

    @property
    def hash(self) -> str:
        """First 12 hex digits of SHA-256 over the fields that differ from their defaults."""
        return hash_of(self.changed())

    @property
    def name(self) -> str:
        """Folder name of the run: readable first, unique by its hash."""
        kind = "dense" if self.one_in == 1 else f"sparse-{self.one_in}"
        return f"{kind}-w{self.width}-s{self.seed}-{self.hash}"

    @property
    def command(self) -> str:
        """The command that makes this run.

        >>> TextRun(one_in=10, steps=90).command
        'sparseflow train text --one-in 10 --steps 90'
        """
        return command("sparseflow train text", self, TextRun())

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return changed(self)

    def with_(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict, as stored in ``config.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: if a field is unknown, or a value cannot be.
        """
        if unknown := sorted(set(values) - set(defaults_of(cls))):
            raise ValueError(f"the config has fields this version does not know: {', '.join(unknown)}.")
        return cls(**values)


#: What a dense run leaves at its default, so that it has one name.
DENSE_SETTINGS: dict[str, Any] = {
    name: defaults_of(TextRun)[name]
    for name in (
        "one_in", "start_one_in", "floor", "init", "anneal_begin", "anneal_end", "update_every", "drop_fraction",
        "engine",
    )
}  # fmt: skip


def small_dense(run: TextRun) -> TextRun:
    """The dense run whose decoder is as narrow as makes its weights nearest to the active ones of a sparse run.

    It has as many blocks, and four heads or fewer.

    >>> small_dense(TextRun(one_in=100)).width, small_dense(TextRun(one_in=10)).width
    (20, 76)
    """
    wanted = _num_active(run)
    heads = min(4, run.heads)
    dense = run.with_(**DENSE_SETTINGS, heads=heads)
    widths = range(heads, run.width + 1, heads)
    return min((dense.with_(width=width) for width in widths), key=lambda each: abs(_num_active(each) - wanted))


def _num_active(run: TextRun) -> int:
    with torch.device("meta"):
        model = Decoder(**run.size)
    active = counts(model, run.annealing.end)
    return sum(active.get(name, each.numel()) for name, each in model.named_parameters())
