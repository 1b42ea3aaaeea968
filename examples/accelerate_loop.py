"""RigL in a loop of accelerate's, with accumulation and bf16: stopped half-way, continued, equal to the last bit."""

from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sparseflow as sf
from sparseflow.data.digits import load_dataset

STEPS, ACCUMULATE = 60, 2
digits = load_dataset("mnist-5k")


def run(folder: str, *, start: int = 0, stop: int = STEPS) -> nn.Module:
    """Optimizer steps from one to another; begins with the checkpoint, unless at 0, and ends with one."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=ACCUMULATE)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Dropout(0.1), nn.Linear(200, 10))
    masks = sf.random_masks(model, 0.95, allocation="erk", seed=0)
    sf.initialize_(model, masks, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    # A generator of its own: else the start of an epoch draws from the one that dropout uses, when a run resumes too.
    rows = TensorDataset(digits.train_images, digits.train_labels)
    batches = DataLoader(rows, batch_size=32, generator=torch.Generator())
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)

    method = sf.RigL(update_every=10, total_steps=STEPS)
    sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=0)
    accelerator.register_for_checkpointing(sparsifier)  # before load_state
    if start:
        accelerator.load_state(folder)
        batches = accelerator.skip_first_batches(batches, start * ACCUMULATE)

    for x, y in batches:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(x), y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:  # the last backward of a step
                sparsifier.mask_gradients_()
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if sparsifier.step_count == stop:
            break
    accelerator.save_state(folder)
    print(f"step {sparsifier.step_count}: loss {loss:.2f}, sparsity {sparsifier.sparsity:.3f}")
    trained: nn.Module = accelerator.unwrap_model(model).eval()
    return trained


with TemporaryDirectory() as folder:
    alone = run(folder)
    run(folder, stop=STEPS // 2)
    continued = run(folder, start=STEPS // 2)

is_equal = all(torch.equal(a, b) for a, b in zip(alone.parameters(), continued.parameters(), strict=True))
hits = (continued(digits.test_images).argmax(1) == digits.test_labels).float().mean()
print(f"continued: {'the same to the last bit' if is_equal else 'another network'}, {hits:.1%} of digits right")
assert is_equal
assert hits > 0.7
