#!/usr/bin/env bash
# Guess: a module whose weight is a sparse CSR or COO tensor in an nn.Parameter, which torch.optim.SGD trains and
# torch.save saves, can be copied by copy.deepcopy and averaged by AveragedModel like every other module.
# Seen: both raise "unsupported memory format option Preserve" for either layout, where a clone() of the same parameter
# works: nn.Parameter asks for a clone that preserves the strides, and these tensors have none. So there is no average
# and no snapshot by deepcopy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/copied.py" <<'PYTHON'
import copy
import io

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

dense = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
print("torch", torch.__version__)


class Sparse(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)


def refuses(call, net):
    try:
        call(net)
    except RuntimeError as error:
        print("   ", call.__name__, "raises:", error)
        return "Preserve" in str(error)
    return False


for weight in (dense.to_sparse_csr(), dense.to_sparse()):
    net = Sparse(weight)
    torch.sparse.mm(net.weight, torch.ones(2, 1)).sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9).step()
    print(weight.layout, "after a step:", net.weight.to_dense().tolist(), "as a clone:", net.weight.clone().layout)
    assert net.weight.to_dense().tolist() == [[0.5, 0], [0, 1.5]]
    torch.save(net.state_dict(), io.BytesIO())
    assert refuses(copy.deepcopy, net), "it can be copied now: this finding is out of date"
    assert refuses(AveragedModel, net), "it can be averaged now: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/copied.py"
