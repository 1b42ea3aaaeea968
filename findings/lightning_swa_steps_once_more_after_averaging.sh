#!/usr/bin/env bash
# Guess: with a batch norm in the network, Lightning's StochasticWeightAveraging puts the average in place and goes over the
# training data once more for the statistics alone ("there is no need to perform either backward or optimizer.step", says
# its source); the module ends with the averaged weights.
# Seen: the optimizer steps once more, at the end of that pass, by the gradient of the last batch before it, which nobody has
# set to zero. The module's weights are not the average, and the statistics are not those of its weights. Without a batch
# norm the weights are the average.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 lightning==2.6.6
cat > "$folder/average.py" <<'PYTHON'
import logging
import warnings

warnings.simplefilter("ignore")
import lightning
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
print("torch", torch.__version__, "lightning", lightning.__version__)


class Module(lightning.LightningModule):
    def __init__(self, norm):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 1))
        self.steps = []

    def training_step(self, batch, index):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        optimizer.register_step_post_hook(lambda *_: self.steps.append(self.trainer.current_epoch))
        return optimizer


def fit(norm):
    torch.manual_seed(0)
    module, average = Module(norm), StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    data = DataLoader(TensorDataset(torch.randn(32, 4)), batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=3, callbacks=[average], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(module, data)
    off = (average._average_model.net[0].weight - module.net[0].weight).abs().max().item()
    print(f"{type(norm).__name__}: {len(module.steps)} steps, in epoch 3 {module.steps.count(3)}; module - average: {off:.2g}")
    return module.steps.count(3), off


assert fit(nn.Identity()) == (0, 0.0), "without a batch norm the weights are not the average either"
steps, off = fit(nn.BatchNorm1d(4))
assert (steps, off > 1e-4) == (1, True), "no step follows the averaging now: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/average.py"
