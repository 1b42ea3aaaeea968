"""Measure other libraries in their own environment: JSON on standard input, a line of JSON per result.

The input has ``kind``, ``peers``, ``threads``, ``smoke`` and ``requests``; each request has a ``shape`` (outputs,
inputs), or ``channels`` and ``pixels``, a ``batch`` and a ``sparsity``. Results are checked against dense ones, then
timed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.engine_timing import measure

#: Two float32 sums of the same numbers in another order, over a thousand terms.
_TOLERANCE = 1e-3


def main() -> None:
    asked = json.loads(sys.stdin.read())
    torch.set_num_threads(asked["threads"])
    for request in asked["requests"]:
        for peer in asked["peers"]:
            make = CONV_MAKERS[peer] if asked["kind"] == "conv" else LINEAR_MAKERS[peer]
            print(json.dumps(_result(asked, request, peer, make)), flush=True)


def _result(asked: dict[str, Any], request: dict[str, Any], peer: str, make: Callable[..., Any]) -> dict[str, Any]:
    row = ROWS[asked["kind"]](request)
    try:
        torch.manual_seed(0)
        timings, fastest, work = (_conv if asked["kind"] == "conv" else _linear)(asked, request, make)
    except Exception as error:  # noqa: BLE001 - a peer that fails in any way is a result
        return {"row": row, "peer": peer, "error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
    return {
        "row": row, "peer": peer, "request": request, "subject": timings.subject, "baseline": timings.baseline,
        "fastest": fastest, "multiply_adds": work,
    }  # fmt: skip


def _masked(weight: Tensor, sparsity: float) -> int:
    """Set exactly this fraction of the weight to zero, and return the number of nonzeros."""
    with torch.no_grad():
        count = round(weight.numel() * sparsity)
        weight.view(-1)[torch.randperm(weight.numel())[:count]] = 0
    return weight.numel() - count


def _linear(asked: dict[str, Any], request: dict[str, Any], make: Callable[[nn.Linear], nn.Module]) -> Any:
    outputs, inputs = request["shape"]
    dense = nn.Linear(inputs, outputs)
    nonzeros = _masked(dense.weight.data, request["sparsity"])
    x = torch.randn(request["batch"], inputs)
    sparse = make(dense)
    _check(sparse(x), dense(x))
    if asked["kind"] == "forward":
        with torch.inference_mode():
            timings, fastest = measure(lambda: sparse(x), {"row-major": lambda: dense(x)}, smoke=asked["smoke"])
        return timings, fastest, nonzeros * len(x)
    x.requires_grad_()
    gradient = torch.randn(len(x), outputs)
    subject, baseline = _forward_backward(sparse, x, gradient), _forward_backward(dense, x, gradient)
    _check(subject()[0], baseline()[0])
    timings, fastest = measure(subject, {"row-major": baseline}, smoke=asked["smoke"])
    return timings, fastest, 3 * nonzeros * len(x)


def _conv(asked: dict[str, Any], request: dict[str, Any], make: Callable[[nn.Conv2d], list[nn.Module]]) -> Any:
    channels, pixels, batch = request["channels"], request["pixels"], request["batch"]
    dense = nn.Conv2d(channels, channels, 3, padding=1)
    nonzeros = _masked(dense.weight.data, request["sparsity"])
    last = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, gradient = torch.randn(2, batch, channels, pixels, pixels)
    x.requires_grad_()
    x_last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient_last = gradient.contiguous(memory_format=torch.channels_last)
    baselines = {
        "contiguous": _forward_backward(dense, x, gradient),
        "channels_last": _forward_backward(last, x_last, gradient_last),
    }
    subjects = {}
    for number, sparse in enumerate(make(dense)):
        subjects[str(number)] = _forward_backward(sparse, x, gradient)
        _check(subjects[str(number)]()[0], baselines["contiguous"]()[0])
    # The faster of the library's own variants, as its own tuner would choose.
    _, fastest = measure(baselines["contiguous"], subjects, smoke=asked["smoke"], repeats=1)
    timings, baseline = measure(subjects[fastest], baselines, smoke=asked["smoke"])
    return timings, baseline, 3 * nonzeros * pixels**2 * batch


def _forward_backward(layer: nn.Module, x: Tensor, gradient: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: torch.autograd.grad(layer(x), [x, *layer.parameters()], gradient)


def _check(found: Tensor, right: Tensor) -> None:
    error = float((found - right).abs().max())
    if not error <= _TOLERANCE * float(right.abs().max()):
        raise ValueError(f"its result differs from the dense one by {error:g}")


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
        return torch.addmm(bias[:, None], layer.weight, columns).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0].t().contiguous()
        sampled = torch.sparse.sampled_addmm(ctx.layer.weight, gradient, ctx.columns.t(), beta=0.0)
        return (ctx.layer.transposed @ gradient).t(), sampled.values(), gradient.sum(1), None


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


ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "linear": lambda request: "x".join(map(str, request["shape"])),
    "forward": lambda request: f"batch {request['batch']}",
    "conv": lambda request: "{channels}->{channels} on {pixels}x{pixels}".format(**request),
}
LINEAR_MAKERS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "torch CSR": _CSRLinear,
    "sparselab": _sparselab,
    "sparseprop": _sparseprop,
}
CONV_MAKERS: dict[str, Callable[[nn.Conv2d], list[nn.Module]]] = {"sparseprop": _sparseprop_conv}


if __name__ == "__main__":
    main()
