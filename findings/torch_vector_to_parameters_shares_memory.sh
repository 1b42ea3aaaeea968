#!/usr/bin/env bash
# Guess: vector_to_parameters(vector, parameters) copies numbers into the parameters, as load_state_dict does. A vector
# that parameters_to_vector took at the start is a point to which a network can be rewound as often as one likes.
# Seen: each parameter becomes a view of the vector. Training after the first rewinding trains the vector itself, and
# the second rewinding goes to where training ended: iterative pruning with rewinding, a line search or a landscape
# drawn around a point measures something else from its second round on. vector_to_parameters(vector.clone(),
# parameters) does what was meant.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/memory.py" <<'PYTHON'
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

torch.manual_seed(0)
net = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
start = parameters_to_vector(net.parameters()).detach()
as_it_was = start.clone()


def train():
    optimizer.zero_grad()
    net(torch.ones(2, 3)).sum().backward()
    optimizer.step()


print("torch", torch.__version__)
train()
print("after training: the vector is what it was:", torch.equal(start, as_it_was))
assert torch.equal(start, as_it_was)
for copied in (True, False):
    vector_to_parameters(start.clone() if copied else start, net.parameters())
    train()
    print(f"rewound to {'a copy' if copied else 'it'} and trained: it is what it was:", torch.equal(start, as_it_was))
    assert torch.equal(start, as_it_was) == copied, "they share no memory now: this finding is out of date"
vector_to_parameters(start, net.parameters())
distance = (parameters_to_vector(net.parameters()) - as_it_was).abs().max().item()
print("rewound once more, the network is", distance, "from its start")
assert distance > 1
PYTHON
"$folder/venv/bin/python" "$folder/memory.py"
