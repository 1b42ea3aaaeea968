#!/usr/bin/env bash
# Guess: torchinfo's total_mult_adds of a Linear grows with the number of positions it is applied to, as that of a
# convolution does.
# Seen: it does not. (2, 32), (2, 10, 32) and (2, 100, 32) count the same: batch times weights, and the axes between are
# left out. Of a transformer it reports the work of one token, so convolutional and transformer models cannot be
# compared, and the budget of a sequence is too small by its length.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchinfo==1.8.0
cat > "$folder/tokens.py" <<'PYTHON'
import torch
import torchinfo
from torch import nn

print("torch", torch.__version__, "torchinfo", torchinfo.__version__)
layer = nn.Linear(32, 32, bias=False)
found = {}
for shape in ((2, 32), (2, 10, 32), (2, 100, 32)):
    found[shape] = torchinfo.summary(layer, shape, verbose=0).total_mult_adds
    rows = torch.Size(shape[:-1]).numel()
    print(shape, "mult-adds counted", found[shape], "by hand", rows * 32 * 32)
convolution = nn.Conv1d(32, 32, 1, bias=False)  # the same product, written as a convolution
as_convolution = torchinfo.summary(convolution, (2, 32, 100), verbose=0).total_mult_adds
print("the same as a convolution of (2, 32, 100):", as_convolution)
assert set(found.values()) == {2 * 32 * 32}, "tokens are counted now: this finding is out of date"
assert as_convolution == 2 * 100 * 32 * 32
PYTHON
"$folder/venv/bin/python" "$folder/tokens.py"
