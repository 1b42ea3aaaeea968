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


def to_onnx(
    model: nn.Module, example: Tensor | tuple[Tensor, ...], path: str | os.PathLike[str], *, sparse: bool = False
) -> int:
    """Write the dense graph of a sparse or masked model for inference; its zeros are written out.

    The batch, the first axis of every input, may differ at run time where the model allows it. Batch normalisation and
    dropout are exported as they are in evaluation.

    Args:
        model: Not changed.
        example: An input, or a tuple of positional arguments.
        path: Replaced atomically; ``<path>.sha256`` beside it is for ``sha256sum --check``.
        sparse: Store weights as sparse initializers, 12 bytes for an active float32, where that is smaller (below a
            density of a third). For onnxruntime alone: OpenVINO refuses such a file, and ``onnxscript.optimizer`` drops
            the weights without an error. It saves room on disk, not time: onnxruntime makes them dense when it loads.

    Returns: bytes of the file.

    Raises:
        ModuleNotFoundError: if onnx, onnxscript or, for ``sparse``, onnxruntime is not installed.
        ValueError: if the dense model is larger than an ONNX file can be (2 GiB), or ``sparse`` and no weight is.
        RuntimeError: if a sparse weight is missing in the file, or onnxruntime computes something else with it than
            with the dense file, of which ``example`` is the test; nothing is written then.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        if sparse:
            import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'an ONNX export needs {error.name}: pip install "sparseflow[onnx]"', name=error.name
        ) from error
    plain = to_dense(model).eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in plain.state_dict().values())
    if size > _LARGEST:
        raise ValueError(
            f"the dense model has {size} bytes, and an ONNX file at most {_LARGEST}. Use sparseflow.engine.save."
        )
    arguments = tuple(_at_least_two(x) for x in (example if isinstance(example, tuple) else (example,)))
    free = tuple({0: torch.export.Dim.AUTO} if x.dim() else None for x in arguments)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(plain, arguments, dynamo=True, dynamic_shapes=free, verbose=False)
    assert program is not None
    proto = program.model_proto
    data: bytes = proto.SerializeToString()
    if sparse:
        from sparseflow.engine.files.onnx_sparse import check_sparse, make_sparse_

        if not (moved := make_sparse_(proto.graph)):
            raise ValueError("no weight is smaller as a sparse initializer: a third of each is active, or more.")
        dense, data = data, proto.SerializeToString()
        check_sparse(data, dense, moved, [x.detach().cpu().numpy() for x in arguments])
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
