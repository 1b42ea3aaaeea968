#!/usr/bin/env bash
# Guess: torch.fx's Graph.eliminate_dead_code keeps a BatchNorm1d whose output nobody reads, since in train mode the call
# moves its running statistics: a model trains to the same state_dict with and without it.
# Seen: the call is removed, and the statistics stay what they were, though the model's outputs are the same. A layer counts
# as impure only if it says so by an attribute _is_impure, which no batch norm has (torch 2.13.0).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/dead.py" <<'PYTHON'
import torch
from torch import fx, nn


class Watched(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(3)

    def forward(self, x):
        self.norm(x)  # for its running statistics
        return self.fc(x)


print("torch", torch.__version__)
model = Watched()
traced = fx.symbolic_trace(model)
x = torch.randn(8, 3)
expected = traced(x)
before = int(model.norm.num_batches_tracked)
assert before == 1, "a traced batch norm no longer moves its statistics: this finding is out of date"
traced.graph.eliminate_dead_code()
traced.recompile()
assert torch.equal(traced(x), expected)
after = int(model.norm.num_batches_tracked)
print(f"batches tracked: {before} before elimination, {after} after one more batch")
print("operations left:", ", ".join(node.name for node in traced.graph.nodes))
assert after == before, "eliminate_dead_code keeps the batch norm: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/dead.py"
