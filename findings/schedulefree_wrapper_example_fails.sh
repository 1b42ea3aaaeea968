#!/usr/bin/env bash
# Guess: the example of ScheduleFreeWrapper in schedulefree's own README (around torch.optim.RMSprop) trains; so does one
# around RAdam or AdamW, the optimizers that the package has schedule-free versions of.
# Seen: each raises KeyError at the first step. The wrapper keeps its own tensor in the inner optimizer's state before the
# inner one steps, and torch's optimizers make theirs only where the state is empty. Only one that keeps its state as it
# comes, such as SGD, can be wrapped.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 schedulefree==1.4.1
cat > "$folder/wrap.py" <<'PYTHON'
import importlib.metadata

import schedulefree
import torch

print("torch", torch.__version__, "schedulefree", importlib.metadata.version("schedulefree"))
found = {}
for base in (torch.optim.RMSprop, torch.optim.RAdam, torch.optim.AdamW, torch.optim.SGD):
    model = torch.nn.Linear(4, 4)
    optimizer = schedulefree.ScheduleFreeWrapper(base(model.parameters(), lr=0.0025), momentum=0.9, weight_decay_at_y=0.1)
    optimizer.train()
    model(torch.ones(2, 4)).sum().backward()
    try:
        optimizer.step()
        found[base.__name__] = "steps"
    except KeyError as error:
        found[base.__name__] = f"KeyError: {error}"
print(found)
assert found["SGD"] == "steps", "not even SGD can be wrapped"
assert found["RMSprop"] == "KeyError: 'square_avg'", "the README's example works now: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/wrap.py"
