"""Measure other libraries in their own environment: JSON on standard input, a line of JSON per result.

The input has ``threads``, ``smoke`` and ``requests``; each request has a ``kind``, ``peers``, a ``sparsity``, a
``batch`` and a ``shape`` (outputs, inputs), ``channels`` and ``pixels``, or a ``size``. Results are checked against
dense ones; then all libraries and the dense computation take turns.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import sparseflow as sf
from benchmarks.contest import BLOCKS, FLOAT32, LAYOUTS, UNSTRUCTURED, Entry, StepOf, fastest_of, masks_of
from benchmarks.engine_problems import DENSE_IMAGES, forward_backward, inference, two_layers
from benchmarks.timing import Step, take_turns

#: Two float32 sums of the same numbers in another order, over a thousand terms.
_TOLERANCE = 1e-3


class Kind(NamedTuple):
    """A dense model and its example input, the step to time, and how each library makes its form of the model."""

    model: nn.Module
    x: Tensor
    step: Callable[[nn.Module, str], Step]
    makers: Mapping[str, Callable[[Any], list[nn.Module]]]
    layouts: tuple[str, ...]
    work: int


def main() -> None:
    asked = json.loads(sys.stdin.read())
    torch.set_num_threads(asked["threads"])
    for request in asked["requests"]:
        print(json.dumps(_result(request, smoke=asked["smoke"])), flush=True)


def _result(request: dict[str, Any], *, smoke: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    kind = KINDS[request["kind"]](request)
    steps, fastest, errors = {}, {}, {}
    dense = {layout: kind.step(copy.deepcopy(kind.model), layout) for layout in kind.layouts}
    fastest[FLOAT32], steps[FLOAT32] = fastest_of(dense, smoke=smoke)
    for peer in request["peers"]:
        try:
            forms = kind.makers[peer](copy.deepcopy(kind.model))
            for form in forms:
                _check(form(kind.x), sf.engine.to_dense(form)(kind.x) if peer == BLOCKS else kind.model(kind.x))
            # The fastest of the library's own variants, as its own tuner would choose.
            ways = {str(number): kind.step(form, "contiguous") for number, form in enumerate(forms)}
            fastest[peer], step = fastest_of(ways, smoke=smoke)
            step()
            steps[peer] = step
        except Exception as error:  # noqa: BLE001 - a peer that fails in any way is a result
            errors[peer] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    seconds = take_turns(steps, smoke=smoke)
    return {"request": request, "seconds": seconds, "fastest": fastest, "errors": errors, "work": kind.work}


def _check(found: Tensor, right: Tensor) -> None:
    error = float((found - right).abs().max())
    if not error <= _TOLERANCE * float(right.abs().max()):
        raise ValueError(f"its result differs from the dense one by {error:g}")


def _sparsify(model: nn.Module, sparsity: float) -> int:
    """Set exactly this fraction of the weights to zero, and return the number of nonzeros."""
    masks = masks_of(model, Entry(UNSTRUCTURED, sparsity, {}))
    sf.apply_masks_(model, masks)
    return sum(int(mask.sum()) for mask in masks.values())


def _made(of: StepOf, model: nn.Module, layout: str) -> Step:
    if layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return of(model, LAYOUTS[layout], nullcontext)


def _linear(request: dict[str, Any]) -> Kind:
    (outputs, inputs), batch = request["shape"], request["batch"]
    model, x = nn.Linear(inputs, outputs), torch.randn(batch, inputs)
    work = 3 * batch * _sparsify(model, request["sparsity"])
    of = forward_backward(x, torch.randn(batch, outputs), of_input=True)
    return Kind(model, x, partial(_made, of), _single(LINEAR_MAKERS), ("contiguous",), work)


def _forward(request: dict[str, Any]) -> Kind:
    (outputs, inputs), batch = request["shape"], request["batch"]
    model, x = nn.Linear(inputs, outputs), torch.randn(batch, inputs)
    work = batch * _sparsify(model, request["sparsity"])
    of = inference(x)
    return Kind(model, x, partial(_made, of), _single(LINEAR_MAKERS), ("contiguous",), work)


def _conv(request: dict[str, Any]) -> Kind:
    channels, pixels, batch = request["channels"], request["pixels"], request["batch"]
    model = nn.Conv2d(channels, channels, 3, padding=1)
    x, gradient = torch.randn(2, batch, channels, pixels, pixels)
    work = 3 * pixels**2 * batch * _sparsify(model, request["sparsity"])
    of = forward_backward(x, gradient, of_input=True)

    return Kind(model, x, partial(_made, of), CONV_MAKERS, DENSE_IMAGES, work)


def _mlp(request: dict[str, Any]) -> Kind:
    """The user-level MLP: sparselab's layers and ours in the same ``nn.Sequential``; blocks have other masks."""
    size, batch, sparsity = request["size"], request["batch"], request["sparsity"]
    model = two_layers(size)
    x, gradient = torch.randn(2, batch, size)
    of = forward_backward(x, gradient, of_input=False)
    makers: dict[str, Callable[[Any], list[nn.Module]]] = {
        "sparselab": lambda m: [nn.Sequential(*(_sparselab(n) if isinstance(n, nn.Linear) else n for n in m))],
        UNSTRUCTURED: lambda m: [sf.engine.convert(m, sf.masks_of(m))],
        BLOCKS: lambda m: [_in_blocks(m, sparsity)],
    }
    work = _sparsify(model, sparsity) * batch
    return Kind(model, x, partial(_made, of), makers, ("contiguous",), work)


def _in_blocks(model: nn.Module, sparsity: float) -> nn.Module:
    masks = masks_of(model, Entry(BLOCKS, sparsity, {}))
    return sf.engine.convert(sf.apply_masks_(model, masks), masks)


def _single(makers: Mapping[str, Callable[[nn.Linear], nn.Module]]) -> dict[str, Callable[[Any], list[nn.Module]]]:
    return {peer: lambda dense, make=make: [make(dense)] for peer, make in makers.items()}  # type: ignore[misc]


def _sparselab(dense: nn.Linear) -> nn.Module:
    import sparselab  # type: ignore[import-not-found]
    from sparselab import PaddedCSR

    layer: nn.Module = sparselab.SparseLinear(dense.in_features, dense.out_features, sparsity=0.5)
    layer._csr = PaddedCSR.from_dense(dense.weight.detach())
    layer._values = nn.Parameter(torch.from_numpy(layer._csr.values))
    layer.bias = nn.Parameter(dense.bias.detach().clone())
    return layer


def _sparseprop(dense: nn.Linear) -> nn.Module:
    from sparseprop.modules import SparseLinear  # type: ignore[import-not-found]

    layer: nn.Module = SparseLinear.from_dense(dense)
    return layer


def _sparseprop_conv(dense: nn.Conv2d) -> list[nn.Module]:
    from sparseprop.modules import SparseConv2d

    return [SparseConv2d.from_dense(dense, vectorizing_over_on=choice) for choice in (False, True)]


class _CSRProduct(torch.autograd.Function):
    """The fastest products of torch's CSR matrices: W X, W^T G and a sampled G X^T, with the batch innermost."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor, layer: _CSRLinear) -> Tensor:
        columns = x.t().contiguous()
        ctx.columns, ctx.layer = columns, layer
        out: Tensor = torch.sparse.mm(layer.weight, columns) + bias[:, None]
        return out.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0].t().contiguous()
        sampled = torch.sparse.sampled_addmm(ctx.layer.weight, gradient, ctx.columns.t(), beta=0.0)
        return torch.sparse.mm(ctx.layer.transposed, gradient).t(), sampled.values(), gradient.sum(1), None


class _CSRLinear(nn.Module):
    """A linear layer of CSR matrices; in training its transposed copy would have to be updated, which is not timed."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.weight = dense.weight.detach().to_sparse_csr()
        self.transposed = dense.weight.detach().t().contiguous().to_sparse_csr()
        self.values = nn.Parameter(self.weight.values())
        self.bias = nn.Parameter(dense.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in)`` to ``(batch, out)``."""
        out: Tensor = _CSRProduct.apply(x, self.values, self.bias, self)  # type: ignore[no-untyped-call]
        return out


KINDS: dict[str, Callable[[dict[str, Any]], Kind]] = {
    "linear": _linear,
    "forward": _forward,
    "conv": _conv,
    "mlp": _mlp,
}
LINEAR_MAKERS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "torch CSR": _CSRLinear,
    "sparselab": _sparselab,
    "sparseprop": _sparseprop,
}
CONV_MAKERS: dict[str, Callable[[nn.Conv2d], list[nn.Module]]] = {"sparseprop": _sparseprop_conv}


if __name__ == "__main__":
    main()
