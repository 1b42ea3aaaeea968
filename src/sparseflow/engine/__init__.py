"""Real sparsity on the CPU: weights that are zero are not computed.

`pattern`: where the active weights are. `geometry`: where a convolution finds its rows. `simd`, `kernels`,
`pooling`: the compiled loops. `products`, `functions`, `modules`, `pools`: layers, for autograd.
`convert`: from masks and back. `plan`: a whole network in one call.
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
from sparseflow.engine.speed.table import LayerSpeed, SpeedTable

__all__ = [
    "LayerSpeed",
    "Pattern",
    "Plan",
    "SparseConv1d",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "SpeedTable",
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
