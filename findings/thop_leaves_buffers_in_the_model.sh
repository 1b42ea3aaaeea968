#!/usr/bin/env bash
# Guess: thop.profile counts a model's operations and leaves the model as it was: its state_dict has the names that it
# had.
# Seen: modules that have no formula of their own, such as the class one writes, keep the buffers total_ops and
# total_params. They are saved with the weights, and a fresh model refuses the file: unexpected keys. A second profile
# of the same model counts on from there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 thop==0.1.1.post2209072238
cat > "$folder/model.py" <<'PYTHON'
import thop
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x)


net = Net()
before = set(net.state_dict())
thop.profile(net, (torch.ones(1, 4),), verbose=False)
added = sorted(set(net.state_dict()) - before)
print("torch", torch.__version__, "thop", thop.__version__)
print("names that were added:", *added)
assert added == ["total_ops", "total_params"], "the model is left as it was now: this finding is out of date"
try:
    Net().load_state_dict(net.state_dict())
except RuntimeError as error:
    print("a fresh model:", " ".join(str(error).split()))
else:
    raise AssertionError("it loads now: this finding is out of date")
PYTHON
"$folder/venv/bin/python" "$folder/model.py"
