#!/usr/bin/env bash
# Guess: loss_landscapes.random_line(net, metric) measures a network and leaves it as it was; a line's first point is
# the network.
# Seen: afterwards the network stands at the other end of the line. The function walks with the network itself and does
# not walk back, unless it is called with deepcopy_model=True, which is not the default. Whoever draws a landscape in
# the midst of training trains on from the end of a random line.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 tqdm gymnasium loss-landscapes==3.0.6
cat > "$folder/network.py" <<'PYTHON'
import copy

import loss_landscapes
import loss_landscapes.metrics
import torch
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(8, 4), torch.randint(0, 2, (8,))
net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
metric = loss_landscapes.metrics.Loss(nn.functional.cross_entropy, x, y)
start = copy.deepcopy(net.state_dict())


def distance():
    return max((start[name] - value).abs().max().item() for name, value in net.state_dict().items())


print("torch", torch.__version__, "loss_landscapes 3.0.6")
losses = loss_landscapes.random_line(net, metric, distance=1, steps=5, deepcopy_model=True)
print("with deepcopy_model=True the network is", distance(), "from where it was")
assert distance() == 0
losses = loss_landscapes.random_line(net, metric, distance=1, steps=5)
end = nn.functional.cross_entropy(net(x), y).item()
print("by default it is", distance(), "from where it was; its loss is now", end, "and the line's last", losses[-1])
assert distance() > 0.01, "it goes back now: this finding is out of date"
assert abs(end - losses[-1]) < 0.05
PYTHON
"$folder/venv/bin/python" "$folder/network.py"
