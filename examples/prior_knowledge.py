"""A network wired by prior knowledge: pixels feed the patch that they lie in, patches the strip, strips the digit.

As genes feed pathways in biology: who may see whom is known, and the names are kept, so that a unit can be read.
"""

import torch
from torch import nn

import sparseflow as sf
from sparseflow.data.digits import load_dataset

data = load_dataset("mnist-5k")
train_x, train_y = data.train_images.flatten(1), data.train_labels
test_x, test_y = data.test_images.flatten(1), data.test_labels

pixels = [f"pixel {row},{column}" for row in range(28) for column in range(28)]
patches = [f"patch {row},{column}" for row in range(7) for column in range(7)]  # of 4 x 4 pixels
strips = [f"row {row}" for row in range(7)] + [f"column {column}" for column in range(7)]
edges = {
    "0.weight": [(f"pixel {r},{c}", f"patch {r // 4},{c // 4}") for r in range(28) for c in range(28)],
    "2.weight": [
        (f"patch {r},{c}", strip) for r in range(7) for c in range(7) for strip in (f"row {r}", f"column {c}")
    ],
}

torch.manual_seed(0)
into_strips = nn.Linear(49, 14)
model = nn.Sequential(nn.Linear(784, 49), nn.ReLU(), into_strips, nn.ReLU(), nn.Linear(14, 10))
masks = sf.masks_from_edges(
    model,
    edges,
    inputs={"0.weight": pixels, "2.weight": patches},
    outputs={"0.weight": patches, "2.weight": strips},
)
sf.initialize_(model, masks, scheme="sparse", seed=0)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)

for _ in range(1000):
    batch = torch.randint(0, len(train_x), (64,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(train_x[batch]), train_y[batch]).backward()
    optimizer.step()

sparsifier.check()
accuracy = (model(test_x).argmax(1) == test_y).float().mean().item()
kept = sum(int(mask.sum()) for mask in masks.values())
print(f"{kept} of {sum(mask.numel() for mask in masks.values())} connections, test accuracy {accuracy:.3f}")
strongest = int(into_strips.weight.abs().sum(0).argmax())
print(f"the patch that the strips weigh most: {patches[strongest]}")
assert kept == 784 + 98
assert accuracy > 0.7
