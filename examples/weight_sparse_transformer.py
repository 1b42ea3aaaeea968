"""A transformer of which one weight in ten is left: the largest stay after every step, then only they are computed.

`sparseflow train text --one-in 100` is the complete program, with validation, checkpoints and a log.
"""

import torch
from torch import nn

import sparseflow as sf
from sparseflow.data.text import bits, drawn_windows, every_window, load_text
from sparseflow.networks.decoder import Decoder
from sparseflow.training.top_weights import Annealing, keep_, top_masks

torch.manual_seed(0)
text = load_text("sympy")  # its Python sources, as bytes; torch needs sympy, so it is there
model = Decoder(symbols=256, width=32, depth=1, heads=2)
nn.init.zeros_(model.bigram.weight)
generator = torch.Generator().manual_seed(0)
annealing = Annealing(start=1.0, end=0.1, begin=10, settled=60)


def loss_of(model: nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of every next byte, in nats."""
    return nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Steps on 16 windows of 33 bytes; while the masks are not final, the largest weights stay after each."""
    for step in steps:
        loss = loss_of(model, drawn_windows(text.training, size=33, count=16, generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step < annealing.settled:
            keep_(model, top_masks(model, annealing.density(step), floor=1))


train(model, torch.optim.AdamW(model.parameters(), lr=1e-2), range(annealing.settled))
masks = top_masks(model, annealing.end, floor=1)  # of every matrix, embedding and bias
keep_(model, masks)
assert all(int((model.get_parameter(name) != 0).sum()) <= int(mask.sum()) for name, mask in masks.items())
assert masks["blocks.0.widen.weight"].any(dim=1).all()  # every neuron reads something

matrices = {name: mask for name, mask in masks.items() if mask.dim() > 1}
sparse = sf.engine.convert(model, matrices)
windows = every_window(text.validation, context=32, most=64)
assert torch.allclose(loss_of(sparse, windows), loss_of(model, windows), rtol=1e-4)

optimizer = torch.optim.AdamW(sparse.parameters(), lr=3e-3)
method = sf.RigL(update_every=10, total_steps=40, schedule="cosine")
sparsifier = sf.Sparsifier(sparse, optimizer, matrices, method, seed=0)
train(sparse, optimizer, range(annealing.settled, 100))
sparsifier.check()
assert any(not torch.equal(sparsifier.masks[name], mask) for name, mask in matrices.items())  # RigL moved them

found = bits(loss_of(sparse, windows).item())
assert found < 5.5  # a guess takes 8 bits
active, whole = (sum(each.sum().item() if of else each.numel() for each in matrices.values()) for of in (True, False))
print(f"{active} of {whole} weights, {found:.1f} bits for a byte of text that it has not seen")
