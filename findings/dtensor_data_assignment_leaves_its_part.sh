#!/usr/bin/env bash
# Guess: weight.data = other gives a DTensor parameter the other's values, as it does for a plain parameter, or raises.
# Seen: nothing is raised and nothing changes: the part that each process computes with stays the old one. weight.copy_(other) under no_grad
# changes it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/assign.py" <<'PYTHON'
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
weight = torch.nn.Parameter(distribute_tensor(torch.zeros(3), mesh, [Shard(0)]))
plain = torch.nn.Parameter(torch.zeros(3))
weight.data = distribute_tensor(torch.ones(3), mesh, [Shard(0)])
plain.data = torch.ones(3)
assigned = weight.to_local().tolist(), (2 * weight).full_tensor().tolist(), plain.tolist()
with torch.no_grad():
    weight.copy_(distribute_tensor(torch.ones(3), mesh, [Shard(0)]))
copied = weight.to_local().tolist()
dist.destroy_process_group()
print("torch", torch.__version__)
print("ones assigned to .data of zeros: the part", assigned[0], "- twice the weight", assigned[1], "- a plain parameter", assigned[2])
print("after copy_:", copied)
assert assigned[2] == copied == [1.0] * 3, "a plain parameter or copy_ behaves otherwise"
assert assigned[0] == [0.0] * 3 and assigned[1] == [0.0] * 3, "the assignment works: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/assign.py"
