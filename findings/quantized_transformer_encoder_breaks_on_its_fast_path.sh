#!/usr/bin/env bash
# Guess: torch.ao.quantization.quantize_dynamic(nn.TransformerEncoder(...).eval(), {nn.Linear}), which returns without a
# word, gives a model that runs.
# Seen: its forward pass raises AttributeError: 'function' object has no attribute 'device'. The encoder's fast path for
# inference looks at linear1.weight, which in a quantised layer is a method. torch.backends.mha.set_fastpath_enabled(False)
# makes the same model run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/encoder.py" <<'PYTHON'
import warnings

import torch
from torch import nn

warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated, says each call
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(64, nhead=4, dim_feedforward=128, batch_first=True)
encoder = nn.TransformerEncoder(layer, num_layers=2).eval()
quantized = torch.ao.quantization.quantize_dynamic(encoder, {nn.Linear}, dtype=torch.qint8)
x = torch.randn(2, 8, 64)
print("torch", torch.__version__)
with torch.inference_mode():
    right = encoder(x)
    try:
        quantized(x)
    except AttributeError as error:
        print("fast path:", error)
    else:
        raise AssertionError("a quantised encoder runs on the fast path: this finding is out of date")
    torch.backends.mha.set_fastpath_enabled(False)
    difference = float((quantized(x) - right).abs().max())
    print(f"without it: runs, outputs differ from float32 by at most {difference:.3f}")
    assert difference < 0.5
PYTHON
"$folder/venv/bin/python" "$folder/encoder.py"
