#!/usr/bin/env bash
# Guess: what an optimizer keeps in state[parameter] has its own dtype again after
# optimizer.load_state_dict(optimizer.state_dict()): a mask is bool, positions are int64.
# Seen: every tensor but "step" takes the parameter's dtype. A mask comes back as float32, so that weight[mask] raises;
# the position 2**24 + 1 comes back as 2**24, without a word; and beside a bfloat16 parameter a float32 momentum is
# rounded to bfloat16. An optimizer that keeps its masks or positions in its state is another one after a resume.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/dtypes.py" <<'PYTHON'
import torch

weight = torch.nn.Parameter(torch.arange(3.0))
narrow = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
optimizer = torch.optim.SGD([weight, narrow], lr=0.1)
optimizer.state[weight]["mask"] = torch.tensor([True, False, True])
optimizer.state[weight]["positions"] = torch.tensor([3, 2**24 + 1])
optimizer.state[narrow]["mean"] = torch.tensor([1.001])
assert weight[optimizer.state[weight]["mask"]].tolist() == [0, 2]
optimizer.load_state_dict(optimizer.state_dict())
mask, positions = optimizer.state[weight]["mask"], optimizer.state[weight]["positions"]
mean = optimizer.state[narrow]["mean"]
print("torch", torch.__version__)
print("the mask is", mask.dtype, "now; the positions are", positions.dtype, [int(each) for each in positions])
print("a float32 mean beside a bfloat16 parameter is", mean.dtype, mean.item())
assert mask.dtype == torch.float32, "the mask keeps its dtype now: this finding is out of date"
assert [int(each) for each in positions] == [3, 2**24] and mean.item() == 1
try:
    weight[mask]
except IndexError as error:
    print("weight[mask]:", error)
else:
    raise AssertionError("it indexes now: this finding is out of date")
PYTHON
"$folder/venv/bin/python" "$folder/dtypes.py"
