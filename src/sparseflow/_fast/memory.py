"""The tensors that compiled passes take, their memory as NumPy sees it, and layers on several threads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from sparseflow._fast.threads import on_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

#: Fewest entries for which a pass is compiled: below, loading Numba costs more than it saves. Once it is loaded, a call
#: is worth while from fewer entries on; the result is the same.
_LOADS_FROM, _CALLS_FROM = 1 << 16, 1 << 12


def is_compiled(*tensors: Tensor) -> bool:
    """Whether the compiled passes take these tensors: large, on the CPU, contiguous, float32 or bool.

    Never without Numba: the plain ways of torch give the same results.

    >>> is_compiled(torch.ones(300, 300), torch.ones(300, 300, dtype=torch.bool))
    True
    >>> is_compiled(torch.ones(300, 300).T)
    False
    """
    smallest = _CALLS_FROM if "sparseflow._fast.choose" in sys.modules else _LOADS_FROM
    # Numba last: asking for it loads it.
    return (
        all(
            smallest <= tensor.numel() < 2**31
            and tensor.is_cpu
            and tensor.dtype in (torch.float32, torch.bool)
            and tensor.is_contiguous()
            for tensor in tensors
        )
        and has_numba()
    )


@cache
def has_numba() -> bool:
    """Whether Numba can be imported; one that does not fit the NumPy beside it counts as none."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def in_memory_order(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors with their axes in the order of memory where all are channels last, else as they are.

    Elementwise passes may look at them so; choices, whose ties go by the logical order, may not.

    >>> kernel = torch.ones(2, 3, 5, 5).to(memory_format=torch.channels_last)
    >>> [tensor.shape for tensor in in_memory_order(kernel)]
    [torch.Size([2, 5, 5, 3])]
    """
    if tensors[0].dim() != 4 or all(tensor.is_contiguous() for tensor in tensors):  # also 1x1 kernels in either format
        return tensors
    if all(tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors):
        return tuple(tensor.permute(0, 2, 3, 1) for tensor in tensors)
    return tensors


def as_integers(tensor: Tensor) -> NDArray[Any]:
    """The memory of a contiguous CPU tensor on one axis: floats as int32, masks as bytes.

    >>> as_integers(torch.tensor([0.0, -0.0])).tolist()
    [0, -2147483648]
    """
    flat: NDArray[Any] = tensor.detach().numpy().reshape(-1)
    return flat.view("uint8" if tensor.dtype == torch.bool else "int32")


def count_true(mask: Tensor) -> int:
    """Number of ``True`` entries, without the conversion to integers that ``mask.sum()`` makes on a CPU.

    >>> count_true(torch.arange(10_000) % 3 == 0)
    3334
    """
    if mask.device.type != "cpu":
        return int(mask.sum())
    import numpy

    return int(numpy.count_nonzero(mask.numpy()))


def map_threads(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """``map`` over as many threads as torch uses, results in order once all are there.

    Args:
        function: Should spend its time in compiled code that leaves other threads alone: Numba's with ``nogil=True``.
        items: Taken one after the other, as threads become free.

    >>> list(map_threads(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(function, items)
        return
    numbered, lock = enumerate(items), Lock()
    results: dict[int, _Result] = {}
    gradients_wanted = torch.is_grad_enabled()

    def work(_: int) -> None:
        with torch.set_grad_enabled(gradients_wanted):  # every thread has a mode of its own
            while True:
                with lock:
                    taken = next(numbered, None)
                if taken is None:
                    return
                number, item = taken
                results[number] = function(item)

    # Through Python: tensors of all shapes and dtypes, chosen one by one, and one hand-over for all of them.
    on_threads(threads, work)
    yield from (results[number] for number in range(len(results)))
