#!/usr/bin/env bash
# Guess: load_state restores torch's random state, so a run that is stopped at a checkpoint and goes on with skip_first_batches
# has the dropout of a run left alone, and ends with the same weights.
# Seen: it does not. To begin an epoch a DataLoader draws a number from torch's default generator, and the epoch in which a
# run resumes begins anew, after load_state: all dropout from there on is shifted. With a generator of its own the DataLoader
# draws there instead, and the two runs are equal to the last bit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
cat > "$folder/resume.py" <<'PYTHON'
import sys
from pathlib import Path

import accelerate
import torch


def run(folder, own, *, stop=None, resume=False):
    """Eight steps, to a checkpoint after `stop`, or from the one after four."""
    accelerator = accelerate.Accelerator(cpu=True)
    torch.manual_seed(0)
    rows = torch.utils.data.TensorDataset(torch.randn(64, 8))
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = torch.utils.data.DataLoader(rows, batch_size=8, generator=torch.Generator() if own else None)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    if resume:
        accelerator.load_state(str(folder))
        batches = accelerator.skip_first_batches(batches, 4)
    for step, (x,) in enumerate(batches, start=5 if resume else 1):
        optimizer.zero_grad()
        accelerator.backward(model(x).square().mean())
        optimizer.step()
        if step == stop:
            accelerator.save_state(str(folder))
            break
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


print("accelerate", accelerate.__version__, "torch", torch.__version__)
differences = {}
for own in (False, True):
    folder = Path(sys.argv[1]) / str(own)
    run(folder, own, stop=4)
    differences[own] = float((run(folder, own, resume=True) - run(folder, own)).abs().max())
print("largest difference of a weight to the run left alone:", differences[False])
print("with a generator of the DataLoader's own:            ", differences[True])
assert differences[False] > 0, "a resumed run is the same now: this finding is out of date"
assert differences[True] == 0, "a generator of its own does not help any more"
PYTHON
"$folder/venv/bin/python" "$folder/resume.py" "$folder"
