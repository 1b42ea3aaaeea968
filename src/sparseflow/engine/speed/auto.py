"""The choice of layers that are faster sparse on this machine, by measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.attached import holder_of
from sparseflow.batches import map_tensors
from sparseflow.engine.convert import convert, convertible, masks_of, sparse_layers, to_dense
from sparseflow.engine.layers.chain import rectified
from sparseflow.engine.speed.table import LayerSpeed, SpeedTable
from sparseflow.engine.speed.timing import Costs, cheapest, layer_costs, medians, model_step, settled, watch
from sparseflow.masks.select import prunable, unwrap
from sparseflow.types import Masks


def compile_sparse(
    model: nn.Module,
    example: Any,
    *,
    masks: Masks | None = None,
    backward: bool = True,
    seconds: float = 0.2,
) -> tuple[nn.Module, SpeedTable]:
    """Convert the layers that are faster sparse, at this input, on this machine, with this many threads.

    Each masked layer is timed dense and sparse, on inputs in the layout that it meets behind dense and behind sparse
    layers. The mix with the least sum is timed as a whole against the dense model, see :func:`best_mix`; if none is
    faster, the model stays dense. The model's hooks, if it has any, see these steps. Expect a second or two for a small
    model, and once the time to compile the kernels.

    Args:
        model: On the CPU. Not changed: not its weights, gradients, statistics, or the random state.
        example: An input such as the model will meet: a tensor, a tuple of several, or a mapping, see
            :mod:`sparseflow.batches`; the batch is its first axis.
        masks: Parameter name -> bool tensor. Default: those of the Sparsifier that holds the weights, else the nonzero
            pattern of every prunable weight. Weights off the mask are dropped.
        backward: Time training steps; ``False`` for inference.
        seconds: To spend on each layer and on the whole.

    Returns:
        A copy of the model, converted as :func:`sparseflow.engine.convert` does it, and the table.

    Raises:
        TypeError, ValueError: if a mask does not fit, or the example holds no tensor.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> model = sf.apply_masks_(model, sf.random_masks(model, 0.9, seed=0))
    >>> x = torch.randn(16, 64)
    >>> fast, table = compile_sparse(model, x, seconds=0.0)
    >>> torch.allclose(fast(x), model(x), atol=1e-6), [layer.num_active for layer in table.layers]
    (True, [205, 32])
    """
    sizes: list[int] = []

    def copied(tensor: Tensor) -> Tensor:
        sizes.extend(tensor.shape[:1])
        return tensor.detach().clone()

    inputs = map_tensors(copied, example)  # a model may write into its input
    if not sizes:
        raise ValueError(f"the example must be a batch of inputs or a tuple with one, got {type(example).__name__}.")
    model = unwrap(model)
    if sparse_layers(model):
        masks = masks_of(model) if masks is None else masks
        model = to_dense(model)
    if masks is None:
        masks = {name: _present_mask(weight.parameter) for name, weight in prunable(model).items()}
    reasons = {name: reason or _no_zeros(masks[name]) for name, reason in convertible(model, masks).items()}
    with torch.random.fork_rng(devices=[]):
        costs = _layer_costs(model, inputs, masks, reasons, backward=backward, seconds=seconds)
        mix, whole = best_mix(
            costs,
            lambda names: _whole_seconds(model, inputs, masks, names, backward=backward, seconds=seconds),
        )
    times = dict(zip(costs, settled(list(costs.values()), [name in mix for name in costs]), strict=True))
    chosen = mix if whole is not None and whole[1] < whole[0] else []
    layers = tuple(
        LayerSpeed(
            name=name,
            shape=tuple(mask.shape),
            num_active=int(mask.sum()),
            dense_seconds=times[name][0] if name in times else None,
            sparse_seconds=times[name][1] if name in times else None,
            is_sparse=name in chosen,
            reason=None if name in times else reasons[name] or "the example does not reach it",
        )
        for name, mask in masks.items()
    )
    table = SpeedTable(
        layers=layers,
        dense_seconds=whole[0] if whole else None,
        sparse_seconds=whole[1] if whole else None,
        batch=sizes[0],
        threads=torch.get_num_threads(),
        backward=backward,
        dtype=str(model.get_parameter(next(iter(masks))).dtype).removeprefix("torch."),
    )
    return convert(model, masks, only=chosen), table


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


def _layer_costs(
    model: nn.Module, inputs: Any, masks: Masks, reasons: dict[str, str | None],
    *, backward: bool, seconds: float,
) -> dict[str, Costs]:  # fmt: skip
    """Costs of each layer that can be sparse and is reached, in the order of execution."""
    candidates = [name for name, reason in reasons.items() if reason is None]
    if not candidates:
        return {}
    dense, sparse = convert(model, masks, only=()), convert(model, masks, only=candidates)
    dense_layers = {name: dense.get_submodule(name.rpartition(".")[0]) for name in candidates}
    met = (
        watch(model_step(dense, inputs, backward=backward), dense_layers),
        watch(model_step(sparse, inputs, backward=backward), sparse_layers(sparse)),
    )
    relus = set(rectified(sparse))
    return layer_costs(dense_layers, sparse_layers(sparse), met, rectified=relus, backward=backward, seconds=seconds)


def _whole_seconds(
    model: nn.Module, inputs: Any, masks: Masks, names: list[str], *, backward: bool, seconds: float
) -> tuple[float, float]:
    forms = convert(model, masks, only=()), convert(model, masks, only=names)
    dense, sparse = medians([model_step(form, inputs, backward=backward) for form in forms], seconds=seconds)
    return dense, sparse


def _present_mask(weight: Tensor) -> Tensor:
    holder = holder_of(weight)
    name = None if holder is None else holder.name_of(weight)
    return weight.detach() != 0 if holder is None or name is None else holder.masks[name]


def _no_zeros(mask: Tensor) -> str | None:
    return "it has no zeros" if bool(mask.all()) else None
