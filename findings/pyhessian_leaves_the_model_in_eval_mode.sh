#!/usr/bin/env bash
# Guess: pyhessian's hessian(net, criterion, data) looks at a network and leaves it in the mode in which it came, as
# torchinfo, fvcore and curvlinops do with one that trains.
# Seen: it puts the network into eval mode and leaves it there. A loop that measures the curvature every hundred steps
# trains on without dropout and with batch norms that stand still, from the first measurement until somebody calls
# net.train().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 pyhessian==0.1
cat > "$folder/mode.py" <<'PYTHON'
import torch
from pyhessian import hessian
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)).train()
x, y = torch.randn(8, 4), torch.randint(0, 2, (8,))
print("torch", torch.__version__, "pyhessian 0.1")
print("training before:", net.training)
(largest,), _ = hessian(net, nn.CrossEntropyLoss(), data=(x, y), cuda=False).eigenvalues(maxIter=5)
print("largest eigenvalue", largest, "training after:", net.training)
assert not net.training, "the mode is put back now: this finding is out of date"
mean = net[1].running_mean.clone()
net(x)
print("a training step's forward pass moves the batch norm:", not torch.equal(mean, net[1].running_mean))
assert torch.equal(net(x), net(x)) and torch.equal(mean, net[1].running_mean)
PYTHON
"$folder/venv/bin/python" "$folder/mode.py"
