#!/usr/bin/env bash
# Guess: FlopCounterMode counts the products of scaled_dot_product_attention, whichever kernel computes them, and counts
# the same for an encoder layer with and without no_grad.
# Seen: on a CPU the kernel that is chosen by itself counts as 0, the one of SDPBackend.MATH as it should; and an
# encoder layer in eval mode counts as 0 as a whole under no_grad, where one fused operation computes it. There is no
# warning: an operation that the counter has no formula for is free. A FLOP budget of training or inference that is
# taken on a CPU leaves out attention.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/cpu.py" <<'PYTHON'
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def flops(call, *arguments):
    with FlopCounterMode(display=False) as counter:
        call(*arguments)
    return counter.get_total_flops()


heads, tokens, width = 4, 16, 16
q = torch.ones(2, heads, tokens, width)
by_hand = 2 * 2 * (2 * heads * tokens * tokens * width)  # two products, two operations for each pair of numbers
print("torch", torch.__version__)
chosen = flops(nn.functional.scaled_dot_product_attention, q, q, q)
with sdpa_kernel(SDPBackend.MATH):
    written_out = flops(nn.functional.scaled_dot_product_attention, q, q, q)
print("attention: by hand", by_hand, "counted", chosen, "with the kernel MATH", written_out)
assert chosen == 0 and written_out == by_hand, "attention is counted now: this finding is out of date"
layer, x = nn.TransformerEncoderLayer(64, heads, 128, batch_first=True).eval(), torch.ones(2, tokens, 64)
with_grad = flops(layer, x)
with torch.no_grad():
    without = flops(layer, x)
print("encoder layer in eval mode:", with_grad, "under no_grad:", without)
assert with_grad > 0 and without == 0, "the fused layer is counted now: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/cpu.py"
