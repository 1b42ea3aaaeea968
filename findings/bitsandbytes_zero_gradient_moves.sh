#!/usr/bin/env bash
# Guess: under bitsandbytes' 8-bit AdamW on a CPU, without weight decay, a weight whose gradient was 0 at every step stays
# where it is, as under its 32-bit AdamW: its momentum is 0, and the 8-bit format has a code for 0.
# Seen: it moves. As soon as another weight of its block of 256 has a gradient, the momentum 0 is stored as a code a few
# places beside that of 0 (2.1e-5 of the block's largest), and the second moment likewise, so Adam's quotient is not 0.
# For a sparse network this means that masked gradients do not keep masked weights at zero.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 bitsandbytes==0.50.2
cat > "$folder/moves.py" <<'PYTHON'
import bitsandbytes
import torch

print("torch", torch.__version__, "bitsandbytes", bitsandbytes.__version__)
farthest = {}
for make in (bitsandbytes.optim.AdamW32bit, bitsandbytes.optim.AdamW8bit):
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    asked = torch.rand(64, 64, generator=generator) < 0.1
    optimizer = make([weight], lr=1e-3, weight_decay=0.0)
    for _ in range(20):
        weight.grad = torch.randn(64, 64, generator=generator) * asked
        optimizer.step()
    others = weight[~asked].detach()
    farthest[make.__name__] = others.abs().max().item()
    print(f"{make.__name__}: {int((others != 0).sum())} of {len(others)} weights with gradient 0 moved,", end=" ")
    print(f"the farthest by {farthest[make.__name__] / 1e-3:.2g} learning rates in 20 steps")
state = optimizer.state[weight]
codes = state["state1"][~asked].unique()
print("codes of their momentum:", codes.tolist(), "code of 0:", int((state["qmap1"] == 0).nonzero()))
assert farthest["AdamW32bit"] == 0, "the 32-bit AdamW moves them too"
assert farthest["AdamW8bit"] > 0, "the 8-bit AdamW leaves them alone now: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/moves.py" 2> "$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
