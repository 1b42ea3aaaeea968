"""The choice of layers to make sparse, by what each costs and by what the whole model costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

#: ``costs[before][own]``: seconds of a layer in form ``own`` behind a layer in form ``before``; 0 is dense, 1 sparse.
Costs = tuple[tuple[float, float], tuple[float, float]]


def best_mix(
    costs: Mapping[str, Costs], measure: Callable[[list[str]], tuple[float, float]]
) -> tuple[list[str], tuple[float, float] | None]:
    """Choose the layers to make sparse by their own times and by those of the whole model.

    The rest of the model may be slower in the layout of sparse layers. Where a mix saves less than its layers promise,
    the difference is their toll, to equal parts; layers that do not save that much leave, and the whole is measured
    again. All layers together are tried too: a chain of sparse layers only is computed in one piece, see
    :mod:`sparseflow.engine.layers.chain`, which its layers do not show.

    Args:
        costs: Of each layer, in the order of execution.
        measure: Names of sparse layers -> seconds of the whole model, dense and with these.

    Returns: the mix with the best ratio, and its measurement.

    >>> costs = {"a": ((9.0, 1.0), (9.0, 1.0)), "b": ((3.0, 2.0), (3.0, 2.0))}
    >>> best_mix(costs, lambda names: (20.0, 19.0 if len(names) == 2 else 16.0))
    (['a'], (20.0, 16.0))
    """
    chain = list(costs.values())
    mix = [name for name, wins in zip(costs, cheapest(chain), strict=True) if wins] or list(costs)
    tried: list[tuple[list[str], tuple[float, float]]] = []
    while mix:
        dense, sparse = measure(mix)
        tried.append((mix, (dense, sparse)))
        times = dict(zip(costs, settled(chain, [name in mix for name in costs]), strict=True))
        saved = {name: times[name][0] - times[name][1] for name in mix}
        toll = (sum(saved.values()) - (dense - sparse)) / len(mix)
        remaining = [name for name in mix if saved[name] > toll]
        mix = remaining if len(remaining) < len(mix) else []
    if costs and list(costs) not in [mix for mix, _ in tried]:
        tried.append((list(costs), measure(list(costs))))
    return min(tried, key=lambda each: each[1][1] / each[1][0], default=([], None))


def cheapest(costs: Sequence[Costs]) -> list[bool]:
    """The choice of sparse layers in a chain for which the sum of seconds is least; ties stay dense.

    The chain begins in the ordinary layout, as behind a dense layer.

    >>> change_of_layout = 2.0
    >>> alone = ((3.0, 1.0 + change_of_layout), (3.0 + change_of_layout, 1.0))
    >>> cheapest([alone]), cheapest([alone, alone])
    ([False], [True, True])
    """
    best: list[tuple[float, list[bool]]] = [(0.0, []), (float("inf"), [])]
    for cost in costs:
        best = [
            min(
                ((spent + cost[before][own], [*path, bool(own)]) for before, (spent, path) in enumerate(best)),
                key=lambda way: way[0],
            )
            for own in (0, 1)
        ]
    return min(best, key=lambda way: way[0])[1]


def settled(costs: Sequence[Costs], is_sparse: Sequence[bool]) -> list[tuple[float, float]]:
    """Seconds of each layer of a chain: dense in the dense model, and sparse in the mix."""
    before = itertools.chain([False], is_sparse)
    return [(cost[0][0], cost[previous][1]) for cost, previous in zip(costs, before, strict=False)]
