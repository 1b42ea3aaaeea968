#!/usr/bin/env bash
# Guess: a layer that is pruned in place, under no_grad, computes with the pruned weight from its next forward pass on,
# in a torch.autocast block as outside.
# Seen: in the block it goes on with the weight before. autocast keeps its bfloat16 copy of each weight that requires a
# gradient until the outermost block ends, and looks at no version. So a loop over sparsities inside one block finds
# that pruning costs nothing, and an optimizer step inside it changes nothing until the block ends.
# torch.clear_autocast_cache() after the write mends it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/weights.py" <<'PYTHON'
import torch

torch.manual_seed(0)
layer, x = torch.nn.Linear(4, 2, bias=False), torch.ones(1, 4)
print("torch", torch.__version__)
with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
    before = layer(x)
    layer.weight.zero_()
    inside = layer(x)
    torch.clear_autocast_cache()
    cleared = layer(x)
print("before:", before.tolist())
print("after weight.zero_(), in the same block:", inside.tolist())
print("after torch.clear_autocast_cache():", cleared.tolist())
assert before.any() and torch.equal(before, inside), "the write is seen now: this finding is out of date"
assert not cleared.any()

layer.reset_parameters()
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
losses = []
with torch.autocast("cpu", torch.bfloat16):
    for _ in range(3):
        optimizer.zero_grad()
        loss = layer(x).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
print("losses of three steps inside one block:", *losses)
assert len(set(losses)) == 1
PYTHON
"$folder/venv/bin/python" "$folder/weights.py"
