"""Weights of an ONNX graph as sparse initializers, which onnxruntime reads and few others do."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

#: Bytes of the place of a value.
_PLACE = 8


class Entry(NamedTuple):
    """A sparse weight of a graph."""

    name: str
    active: int
    shape: tuple[int, ...]


def make_sparse_(graph: Any) -> list[Entry]:
    """Move each initializer that takes less room so to the sparse ones: values, and places in the flattened weight.

    Args:
        graph: An ``onnx.GraphProto``, changed in place.

    Returns: what was moved.
    """
    from onnx import TensorProto, helper, numpy_helper

    moved: list[Entry] = []
    kept = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        flat = values.reshape(-1)
        places = np.flatnonzero(flat)
        if values.ndim < 2 or len(places) * (values.itemsize + _PLACE) >= values.nbytes:
            kept.append(tensor)
            continue
        sparse = graph.sparse_initializer.add()
        sparse.values.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(flat[places]), tensor.name))
        where = places.astype("<i8").tobytes()
        name = f"{tensor.name}_places"
        sparse.indices.CopyFrom(helper.make_tensor(name, TensorProto.INT64, [len(places)], where, raw=True))
        sparse.dims.extend(values.shape)
        moved.append(Entry(tensor.name, len(places), values.shape))
    held = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(held)
    return moved


def check_sparse(data: bytes, dense: bytes, moved: list[Entry], inputs: list[Any]) -> None:
    """Check that a file has its sparse weights still, and that onnxruntime computes with it what the dense one gives.

    Tools that rewrite graphs have dropped sparse initializers without a word.

    Args:
        data, dense: The file, and the one of the same graph with zeros.
        moved: What must be in it.
        inputs: Of one call, as arrays.

    Raises:
        RuntimeError: if either is not so.
    """
    import onnx
    import onnxruntime

    graph = onnx.load_model_from_string(data).graph
    there = [Entry(s.values.name, s.values.dims[0], tuple(s.dims)) for s in graph.sparse_initializer]
    if there != moved or any(tensor.name in {entry.name for entry in moved} for tensor in graph.initializer):
        raise RuntimeError(f"the ONNX file has the sparse weights {there}, not {moved}. Export with sparse=False.")
    results = []
    for file in (data, dense):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        results.append(session.run(None, dict(zip(names, inputs, strict=True))))
    if not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(*results, strict=True)):
        raise RuntimeError(
            "onnxruntime computes other outputs from sparse weights than from dense. Export with sparse=False."
        )
