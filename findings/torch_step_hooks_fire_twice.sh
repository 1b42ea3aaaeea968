#!/usr/bin/env bash
# Guess: a hook of register_step_post_hook fires once for each call of step(), whatever other optimizers the process made.
# Seen: of an optimizer whose step() calls super().step() it fires twice, but only if an optimizer of the parent's class was
# made before, by anyone: torch wraps the step of a class when its first instance is made, and of no parent class. So a
# library that counts steps in hooks counts right in one program and double in the next.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/hooks.py" <<'PYTHON'
import torch


class Logged(torch.optim.SGD):
    """SGD that could print or clip something before it steps."""

    def step(self, closure=None):
        return super().step(closure)


def fired() -> int:
    """How often the hook fires in one step."""
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer = Logged([weight], lr=0.1)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    optimizer.step()
    return len(calls)


print("torch", torch.__version__)
before = fired()
torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)  # of someone else
after = fired()
print("hook calls in one step:", before, "; after another SGD was made:", after)
assert before == 1, "it fires twice from the start"
assert after == 2, "it fires once, whoever made an SGD: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/hooks.py"
