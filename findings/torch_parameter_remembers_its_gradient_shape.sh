#!/usr/bin/env bash
# Guess: after parameter.data = a shorter tensor (and parameter.grad = None) the next backward pass knows the new length, as it
# knows a new dtype, whatever a program still holds of earlier steps.
# Seen: as long as any loss of an earlier step lives, as `loss` of an ordinary loop does while the next one is computed, backward
# raises "invalid gradient ... expected shape compatible with [4]": the node that takes the gradient outlives the step in that graph and
# keeps the old shape. torch makes a new node where the dtype or the device of .data changes, and not where its shape does; so
# a detour over another dtype mends it. A loop in a function that drops its loss never shows it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/shape.py" <<'PYTHON'
import torch


def trains(*, hold: bool, detour: bool) -> bool:
    """Whether a parameter that became shorter gets a gradient; with its last loss alive, and by way of another dtype."""
    weight = torch.nn.Parameter(torch.ones(4))
    loss = (weight * 2).sum()
    loss.backward()
    held = [loss] if hold else []
    del loss
    weight.grad = None
    if detour:
        weight.data = torch.empty(0, dtype=torch.bfloat16)
    weight.data = torch.ones(3)
    try:
        (weight * 2).sum().backward()
    except RuntimeError as error:
        print(f"hold={hold} detour={detour}: {error}")
        return False
    assert weight.grad.shape == (3,) and len(held) == hold
    print(f"hold={hold} detour={detour}: a gradient of", *weight.grad.shape)
    return True


print("torch", torch.__version__)
assert trains(hold=False, detour=False), "it fails without an old loss, too"
assert not trains(hold=True, detour=False), "an old loss does no harm: this finding is out of date"
assert trains(hold=True, detour=True), "another dtype does not make a new node any more"
PYTHON
"$folder/venv/bin/python" "$folder/shape.py"
