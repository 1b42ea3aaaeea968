#!/usr/bin/env bash
# Guess: torch.nn.utils.prune takes the output projection of nn.MultiheadAttention, a Linear, as it takes every other
# Linear: what is trained or loaded is what it computes with.
# Seen: MultiheadAttention reads out_proj.weight and never calls out_proj, so the hook that makes the pruned weight from
# weight_orig and weight_mask does not run. The second backward pass raises ("backward through the graph a second
# time"), and after load_state_dict, which says that all keys match, the module computes with the weight that it had
# when it was pruned.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/weight.py" <<'PYTHON'
import torch
from torch import nn
from torch.nn.utils import prune

torch.manual_seed(0)
x = torch.randn(2, 3, 8)


def pruned(seed):
    torch.manual_seed(seed)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    prune.l1_unstructured(attention.out_proj, "weight", 0.5)
    return attention


trained, loaded = pruned(0), pruned(1)
old = loaded.out_proj.weight.clone()
print("torch", torch.__version__)
print("load_state_dict:", loaded.load_state_dict(trained.state_dict()))
with torch.no_grad():
    difference = (trained(x, x, x)[0] - loaded(x, x, x)[0]).abs().max().item()
print("largest difference between the two afterwards:", difference)
assert difference > 0.01, "the loaded weight is used now: this finding is out of date"
assert torch.equal(loaded.out_proj.weight, old)
prune.remove(loaded.out_proj, "weight")  # makes the weight once more
with torch.no_grad():
    assert torch.equal(trained(x, x, x)[0], loaded(x, x, x)[0])

trained(x, x, x)[0].sum().backward()
try:
    trained(x, x, x)[0].sum().backward()
except RuntimeError as error:
    print("second step:", str(error)[:60])
else:
    raise AssertionError("a second step runs now: this finding is out of date")
PYTHON
"$folder/venv/bin/python" "$folder/weight.py"
