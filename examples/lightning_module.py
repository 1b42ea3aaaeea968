"""A LightningModule on real digits, 95 % sparse from the first step: RigL, an EMA, a checkpoint, a resume, a test."""

import logging
import tempfile
import warnings
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sparseflow as sf
from sparseflow.data.digits import load_dataset
from sparseflow.integrations.lightning import SparsifierCallback

warnings.filterwarnings("ignore", module="lightning")  # its advice on workers
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Digits(lightning.LightningModule):
    """A plain module: nothing in it knows of sparsity."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
        )

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Cross-entropy of a batch."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def test_step(self, batch: list[Tensor], index: int) -> None:
        """Accuracy of a batch."""
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def sparse_trainer(module: Digits, folder: Path, *, epochs: int) -> tuple[lightning.Trainer, SparsifierCallback]:
    """A Trainer with the callback among the others."""
    masks = sf.random_masks(module, 0.95, allocation="erk", seed=0)
    sf.initialize_(module, masks, scheme="sparse", seed=0)
    sparse = SparsifierCallback(masks, sf.RigL(update_every=25, total_steps=320, schedule="cosine"), seed=0)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[sparse, EMAWeightAveraging(decay=0.95), ModelCheckpoint(folder, filename="last")],
        gradient_clip_val=1.0,
        log_every_n_steps=20,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return trainer, sparse


lightning.seed_everything(0, verbose=False)
digits = load_dataset("mnist-5k")
train = DataLoader(TensorDataset(digits.train_images, digits.train_labels), batch_size=100, shuffle=True)
test = DataLoader(TensorDataset(digits.test_images, digits.test_labels), batch_size=500)

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    module = Digits()
    trainer, sparse = sparse_trainer(module, folder, epochs=4)
    trainer.fit(module, train)
    print(sparse.sparsifier)

    # Another process would do the same: masks, step count and draws come with the checkpoint.
    module = Digits()
    trainer, sparse = sparse_trainer(module, folder, epochs=8)
    trainer.fit(module, train, ckpt_path=folder / "last.ckpt")

assert sparse.record is not None
print(sparse.record.table(most_rows=8))
(found,) = trainer.test(module, test, verbose=False)
print(f"test accuracy {found['accuracy']:.1%} with {sf.sparsity_of(sparse.masks):.0%} of the weights zero")
print(sf.sparsity_report(module, sparse.masks))
assert found["accuracy"] > 0.85
assert all(not module.get_parameter(name)[~mask].any() for name, mask in sparse.masks.items())
