"""Export for other runtimes: the dense graph of a model, with zeros, as ONNX."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.engine.convert import to_dense
from sparseflow.sealed import write_with_digest

#: An ONNX file is one protocol buffer, which ends at 2 GiB.
_LARGEST = 2**31 - 1


def to_onnx(model: nn.Module, example: Tensor | tuple[Tensor, ...], path: str | os.PathLike[str]) -> int:
    """Write the dense graph of a sparse or masked model for inference; its zeros are written out.

    The batch, the first axis of every input, may differ at run time where the model allows it. Batch normalisation and
    dropout are exported as they are in evaluation.

    Args:
        model: Not changed.
        example: An input, or a tuple of positional arguments.
        path: Replaced atomically; ``<path>.sha256`` beside it is for ``sha256sum --check``.

    Returns: bytes of the file.

    Raises:
        ModuleNotFoundError: if onnx or onnxscript is not installed.
        ValueError: if the dense model is larger than an ONNX file can be (2 GiB).
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'an ONNX export needs {error.name}: pip install "sparseflow[onnx]"', name=error.name
        ) from error
    dense = to_dense(model).eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in dense.state_dict().values())
    if size > _LARGEST:
        raise ValueError(
            f"the dense model has {size} bytes, and an ONNX file at most {_LARGEST}. Use sparseflow.engine.save."
        )
    arguments = tuple(_at_least_two(x) for x in (example if isinstance(example, tuple) else (example,)))
    free = tuple({0: torch.export.Dim.AUTO} if x.dim() else None for x in arguments)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(dense, arguments, dynamo=True, dynamic_shapes=free, verbose=False)
    assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    write_with_digest(Path(path), data)
    return len(data)


def _at_least_two(x: Tensor) -> Tensor:
    # The exporter would take a batch of one for a constant of the graph.
    return torch.cat([x, x]) if x.dim() and x.shape[0] == 1 else x


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's log and warnings."""
    logger: Any = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
