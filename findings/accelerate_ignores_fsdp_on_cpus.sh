#!/usr/bin/env bash
# Guess: Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2)) on two CPU processes shards the model, as
# torch's fully_shard does there over gloo, or says that it needs accelerators.
# Seen: neither. The model is wrapped in DistributedDataParallel, each process holds every weight whole, and nothing is said: the plugin is
# looked at for devices of a list without CPUs. A small trial of sharding on CPUs tests DDP.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
cat > "$folder/shard.py" <<'PYTHON'
import warnings

import accelerate
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def held(model):
    """Numbers of the weights that this process holds."""
    weights = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in model.parameters()]
    return sum(weight.numel() for weight in weights)


with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    plugin = accelerate.FullyShardedDataParallelPlugin(fsdp_version=2)
    accelerator = accelerate.Accelerator(cpu=True, fsdp_plugin=plugin)
    model = torch.nn.Linear(8, 8, bias=False)
    prepared, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
by_accelerate = held(prepared)
by_torch = held(fully_shard(torch.nn.Linear(8, 8, bias=False), mesh=init_device_mesh("cpu", (2,))))
about = [str(each.message) for each in said if "FSDP" in str(each.message) or "shard" in str(each.message)]
if accelerator.is_main_process:
    print("accelerate", accelerate.__version__, "torch", torch.__version__)
    print("kind of run:", accelerator.distributed_type, "- model:", type(prepared).__name__, "- warnings:", about)
    print(f"of 64 weights a process holds {by_accelerate}; with torch's fully_shard {by_torch}")
assert by_torch == 32, "torch does not shard on CPUs"
assert by_accelerate == 64 and not about, "the model is sharded, or a warning comes: this finding is out of date"
torch.distributed.destroy_process_group()
PYTHON
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -m torch.distributed.run --standalone --nproc-per-node=2 "$folder/shard.py"
