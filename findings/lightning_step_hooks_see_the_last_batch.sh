#!/usr/bin/env bash
# Guess: a hook of torch's Optimizer.register_step_pre_hook, with which gradients are logged, noised or clipped, sees under
# Lightning's automatic optimization the gradients of the batch whose step it precedes, as in an own loop.
# Seen: Lightning hands the backward pass to step() as a closure, so the hook runs before it: there is no gradient at the
# first batch, and at each later one it is that of the batch before. What the hook writes is gone before the step. So it is
# with accumulated gradients too, where the hook sees all micro-batches but the last.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 lightning==2.6.6
cat > "$folder/hooks.py" <<'PYTHON'
import logging
import warnings

warnings.simplefilter("ignore")
import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
print("torch", torch.__version__, "lightning", lightning.__version__)


class Module(lightning.LightningModule):
    """The gradient of batch n is n."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, index):
        return self.weight * batch[0].sum()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        optimizer.register_step_pre_hook(self.look)
        return optimizer

    def look(self, *_):
        self.seen.append(None if self.weight.grad is None else self.weight.grad.item())
        if self.weight.grad is not None:
            self.weight.grad.zero_()  # what a hook writes


def fit(accumulate):
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=1, accumulate_grad_batches=accumulate, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.tensor([1.0, 2.0, 3.0, 4.0])), batch_size=1))
    print(f"accumulate {accumulate}: the hook saw {module.seen}, the weight moved by {module.weight.item()}")
    return module.seen, module.weight.item()


assert fit(1) == ([None, 1.0, 2.0, 3.0], -10.0), "the hook sees its own batch now: this finding is out of date"
assert fit(2) == ([0.5, 1.5], -3.0), "the hook sees all micro-batches now: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/hooks.py"
