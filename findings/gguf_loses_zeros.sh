#!/usr/bin/env bash
# Guess: a weight that is exactly 0 is 0 again after each quantised format of GGUF, as it is after torch's own
# quantisation, whose zero point is a whole number for that very reason.
# Seen: after Q4_0, Q5_0 and Q8_0 it is; after Q4_1 and Q5_1 it is not. Those store a block's smallest value and a step,
# and 0 lies between two steps. Of a 90 % sparse matrix three zeros in four become small numbers: the file computes a
# dense network, with noise in place of the pruned weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 gguf==0.19.0
cat > "$folder/zeros.py" <<'PYTHON'
from importlib.metadata import version

import numpy as np
from gguf import GGMLQuantizationType, quants

draws = np.random.default_rng(0)
weight = draws.standard_normal((64, 256)).astype(np.float32)
weight[draws.random(weight.shape) < 0.9] = 0
zeros = weight == 0
print("gguf", version("gguf"), "zeros in the weight:", f"{zeros.mean():.3f}")
kept = {}
for name in ("Q4_0", "Q5_0", "Q8_0", "Q4_1", "Q5_1"):
    kind = GGMLQuantizationType[name]
    back = quants.dequantize(quants.quantize(weight, kind), kind)
    kept[name] = float((back[zeros] == 0).mean())
    print(name, "zeros that are 0 again:", f"{kept[name]:.3f}", "largest:", float(np.abs(back[zeros]).max()))
assert all(kept[name] == 1 for name in ("Q4_0", "Q5_0", "Q8_0"))
assert all(kept[name] < 0.5 for name in ("Q4_1", "Q5_1")), "zeros are kept now: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/zeros.py"
