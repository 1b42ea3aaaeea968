"""Real sparsity on the CPU: weights that are zero are not computed.

``layers``: layers that hold active weights only, for autograd, and chains of them. ``kernels``: the compiled loops.
``plans``: training steps of a whole network in one call. ``files``: sparse models on disk. ``speed``: measured choices
between dense and sparse. ``convert``: masked models to sparse ones and back.
"""

try:
    import numba as _numba  # noqa: F401
except ImportError as error:  # not installed, or not made for the NumPy that is
    reason = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
    raise ModuleNotFoundError(
        f"the sparse engine needs Numba: pip install numba. Without it everything works masked.{reason}", name="numba"
    ) from None

from sparseflow.engine.convert import convert, convertible, dense_state_dict, masks_of, sparse_layers, to_dense
from sparseflow.engine.files.export import load, load_state, save
from sparseflow.engine.files.onnx import to_onnx
from sparseflow.engine.layers.modules import SparseConv1d, SparseConv2d, SparseLayer, SparseLinear
from sparseflow.engine.layers.pattern import Pattern
from sparseflow.engine.plans.plan import Plan, plan
from sparseflow.engine.speed.auto import compile_sparse
from sparseflow.engine.speed.benchmark import benchmark
from sparseflow.engine.speed.comparison import BatchSpeed, Comparison
from sparseflow.engine.speed.table import LayerSpeed, SpeedTable

__all__ = [
    "BatchSpeed",
    "Comparison",
    "LayerSpeed",
    "Pattern",
    "Plan",
    "SparseConv1d",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "SpeedTable",
    "benchmark",
    "compile_sparse",
    "convert",
    "convertible",
    "dense_state_dict",
    "load",
    "load_state",
    "masks_of",
    "plan",
    "save",
    "sparse_layers",
    "to_dense",
    "to_onnx",
]
