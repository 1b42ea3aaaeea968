#!/usr/bin/env bash
# Guess: a write to a DTensor, such as load_state_dict makes, counts in Tensor._version of its part too: weight.to_local() shares the memory,
# as a view does, and the counter of a view is that of its base.
# Seen: the counter of the DTensor goes up, that of the part stays, though its values have changed. A write to the part counts at the part
# alone. Who watches the part (autograd's check for saved tensors that were modified does) sees no write to the whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/count.py" <<'PYTHON'
import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
layer = fully_shard(torch.nn.Linear(4, 4, bias=False), mesh=init_device_mesh("cpu", (1,)))
weight = layer.weight
part = weight.to_local().detach()


def counters():
    return weight._version, weight.to_local()._version, part._version


before, values = counters(), part.clone()
layer.load_state_dict({"weight": (weight.detach() + 1).clone()})
after_load = counters()
changed = not torch.equal(part, values)
with torch.no_grad():
    part.add_(1)
after_part = counters()
dist.destroy_process_group()
print("torch", torch.__version__)
print("counters of the weight, its part now, and the part as it was taken")
print("before", before, "- after load_state_dict", after_load, "- after a write to the part", after_part)
print("the part's values changed with the load:", changed)
assert changed and after_load[0] > before[0], "the load did not write to the weight"
assert after_load[1:] == before[1:], "the write counts at the part: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/count.py"
