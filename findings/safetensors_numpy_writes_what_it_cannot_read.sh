#!/usr/bin/env bash
# Guess: what safetensors.numpy.save writes safetensors.numpy.load reads: bfloat16 arrays (of ml_dtypes) are written, as
# BF16.
# Seen: load raises KeyError: 'BF16'. The names of the dtypes are known in one direction only. The bytes are right (they
# are read below by hand), so it is the reader that lacks the name: a checkpoint of bfloat16 weights, most of those
# today, is not read as NumPy arrays, not even by the module that wrote it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0
cat > "$folder/read.py" <<'PYTHON'
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

weight = np.array([1.5, 0.0, -2.0], dtype=ml_dtypes.bfloat16)
data = safetensors.numpy.save({"weight": weight})
print("safetensors", safetensors.__version__)
print("header:", data[8 : 8 + int.from_bytes(data[:8], "little")].decode().strip())
assert np.array_equal(np.frombuffer(data[-6:], dtype=ml_dtypes.bfloat16), weight)
try:
    back = safetensors.numpy.load(data)
except KeyError as error:
    print("load: KeyError", error)
    assert error.args == ("BF16",)
else:
    raise AssertionError(f"it reads {back['weight'].dtype} now: this finding is out of date")
PYTHON
"$folder/venv/bin/python" "$folder/read.py"
