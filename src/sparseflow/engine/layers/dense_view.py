"""The dense weight of a sparse layer for code that looks at it: its numbers are made when an operation reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


class Stored(Protocol):
    """What a view shows: active values, and where they are."""

    values: nn.Parameter

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the dense weight."""
        ...

    def positions(self) -> Tensor:
        """int64, ascending: where the values are in the flattened dense weight."""
        ...


def _getters(names: str) -> list[Any]:
    """What reads these attributes of a tensor, or calls these methods."""
    found: list[Any] = [getattr(Tensor, name) for name in names.split()]
    return [each if callable(each) else each.__get__ for each in found]


#: Answered without the numbers: models ask a weight for these in every forward pass.
_KNOWN = frozenset(
    [
        *_getters("shape dtype device ndim layout requires_grad itemsize nbytes"),
        *_getters("is_cuda is_cpu is_meta is_sparse is_quantized is_floating_point is_complex"),
        *_getters("size dim numel nelement ndimension element_size get_device __len__"),
        *_getters("new_empty new_zeros new_ones new_full new_tensor"),
        *(torch.is_floating_point, torch.is_complex, torch.numel),
    ]
)
_DETACHED = frozenset([*_getters("data detach"), torch.detach])
_GRADIENT = _getters("grad")[0]
_IN_PLACE = "add sub mul div floordiv mod and or xor lshift rshift"
_WRITING = frozenset(["__set__", "__delete__", "__setitem__", *(f"__i{name}__" for name in _IN_PLACE.split())])


class DenseView(Tensor):
    """The weight with its zeros, of a layer that stores active values alone; gradients reach the values.

    Shape, dtype and device cost nothing. Whatever else reads it gets a dense tensor made for that call; what would
    write to it is refused, for nobody would see it.

    >>> import sparseflow as sf
    >>> layer = sf.engine.SparseLinear.of(nn.Linear(3, 1), torch.tensor([[True, False, True]]))
    >>> layer.weight.shape, layer.weight.dtype, (layer.weight != 0).tolist()
    (torch.Size([1, 3]), torch.float32, [[True, False, True]])
    >>> layer.weight.zero_()
    Traceback (most recent call last):
    RuntimeError: zero_ would write to the weight of a sparse layer, which is made anew each time it is read. ...
    """

    _stored: Stored
    _is_detached: bool

    @staticmethod
    def of(stored: Stored, *, detached: bool = False) -> DenseView:
        """The view of a layer's weight, ``detached`` from its values or not."""
        values = stored.values.detach()
        view = values.new_zeros(()).expand(stored.weight_shape).as_subclass(DenseView)  # one number, of any shape
        view._stored, view._is_detached = stored, detached
        if stored.values.requires_grad and not detached:
            with torch._C.DisableTorchFunctionSubclass():
                view.requires_grad_()
        return view

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Answer from the layer, or run the operation on the dense weight.

        Raises:
            RuntimeError: if it would write to the weight.
        """
        kwargs = kwargs or {}
        if func in _KNOWN:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if args and isinstance(args[0], DenseView):
            view = args[0]
            if func in _DETACHED:
                return DenseView.of(view._stored, detached=True)
            if func == _GRADIENT:
                gradient = view._stored.values.grad
                return None if gradient is None or view._is_detached else _scattered(view._stored, gradient)
        if any(isinstance(written, DenseView) for written in _written(func, args, kwargs)):
            raise RuntimeError(
                f"{_name(func)} would write to the weight of a sparse layer, which is made anew each time it is read. "
                "Write to layer.values, the active weights in the order of the flattened weight, or load a dense state "
                "with load_state_dict; sparseflow.engine.to_dense(model) gives the dense model."
            )
        return func(*tree_map(_dense, tuple(args)), **tree_map(_dense, dict(kwargs)))


def _dense(value: Any) -> Any:
    if not isinstance(value, DenseView):
        return value
    values = value._stored.values
    return _scattered(value._stored, values.detach() if value._is_detached else values)


def _scattered(stored: Stored, values: Tensor) -> Tensor:
    shape = torch.Size(stored.weight_shape)
    return values.new_zeros(shape.numel()).index_copy(0, stored.positions(), values).view(shape)


def _name(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", str(func))
    return getattr(getattr(func, "__self__", None), "__name__", name) if name == "__set__" else name


def _written(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """The arguments that an operation writes to."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")  # copy_, nn.init.normal_
    if in_place or name in _WRITING:
        for first in (*args[:1], *(kwargs[key] for key in ("tensor", "input", "self") if key in kwargs)):
            yield from first if isinstance(first, tuple | list) else [first]
    out = kwargs.get("out")
    yield from out if isinstance(out, tuple | list) else [out]
