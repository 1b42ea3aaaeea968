#!/usr/bin/env bash
# Guess: onnx.reference.ReferenceEvaluator, by which results of other runtimes are checked, evaluates every model that
# onnx.checker accepts and whose operators it has.
# Seen: a model with a weight in graph.sparse_initializer, which the checker accepts and onnxruntime computes with, is
# not even loaded: ValueError about a field data_location, since the sparse tensor is read as if it were a dense one.
# What a sparse export computes cannot be checked by the standard's own evaluator.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/initializers.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

values = helper.make_tensor("w", TensorProto.FLOAT, [2], [3.0, 5.0])
places = helper.make_tensor("places", TensorProto.INT64, [2], [1, 4])
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    "graph",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    sparse_initializer=[helper.make_sparse_tensor(values, places, [2, 3])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
onnx.checker.check_model(model)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
(found,) = session.run(None, {"x": np.array([[1, 10]], np.float32)})
print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
print("onnxruntime computes", found.tolist())
assert found.tolist() == [[0, 53, 0]]  # by hand: the weight is [[0, 3, 0], [0, 5, 0]]
try:
    ReferenceEvaluator(model)
except ValueError as error:
    print("ReferenceEvaluator:", error)
    assert "data_location" in str(error)
else:
    raise AssertionError("it reads the model now: this finding is out of date")
PYTHON
"$folder/venv/bin/python" "$folder/initializers.py"
