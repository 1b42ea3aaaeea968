#!/usr/bin/env bash
# Guess: AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True) averages buffers of numbers, and
# of a bool buffer, such as the mask of a layer, keeps the newest: there is no average of bools.
# Seen: a connection that was active once stays active: 0.9 * True + 0.1 * False is 0.9, and 0.9 as a bool is True.
# After the masks have moved the averaged network computes with all connections that there ever were. A count is cut to
# a whole number each time, so num_batches_tracked lags behind by half. Without use_buffers=True buffers are copied.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/masks.py" <<'PYTHON'
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Masked(nn.Linear):
    def __init__(self):
        super().__init__(4, 1)
        self.register_buffer("mask", torch.tensor([[True, False, False, False]]))

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.mask, self.bias)


print("torch", torch.__version__)
for use_buffers in (False, True):
    layer = Masked()
    averaged = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)
    averaged.update_parameters(layer)
    for _ in range(2):  # one connection moves on
        layer.mask.copy_(layer.mask.roll(1, 1))
        averaged.update_parameters(layer)
    mask = averaged.module.mask.int().tolist()
    print(f"use_buffers={use_buffers}: mask of the layer {layer.mask.int().tolist()}, of its average {mask}")
    expected = [[1, 1, 1, 0]] if use_buffers else [[0, 0, 1, 0]]
    assert mask == expected, "masks are not joined now: this finding is out of date"
norm = nn.BatchNorm1d(2)
averaged = AveragedModel(norm, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
for _ in range(20):
    norm(torch.randn(4, 2))
    averaged.update_parameters(norm)
print("batches:", norm.num_batches_tracked.item(), "by the average:", averaged.module.num_batches_tracked.item())
PYTHON
"$folder/venv/bin/python" "$folder/masks.py"
