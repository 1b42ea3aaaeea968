"""RigL with sparsity-aware initialisation in a plain PyTorch loop; the loop itself knows nothing of sparsity."""

import torch
from torch import nn

import sparseflow as sf

torch.manual_seed(0)
x, y = torch.randn(2048, 64), torch.randint(0, 10, (2048,))
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

masks = sf.random_masks(model, 0.95, allocation="erk", seed=0)
sf.initialize_(model, masks, scheme="sparse", seed=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
method = sf.RigL(drop_fraction=0.3, update_every=20, total_steps=200)  # masks change in the first 75 % of the steps
sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=0)

for _ in range(200):
    batch = torch.randint(0, len(x), (128,))
    loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

sparsifier.check()  # raises unless every inactive weight and its momentum is exactly zero and every count is right
flow = sf.gradient_flow(model, nn.functional.cross_entropy, [(x, y)], sparsifier.masks)
print(f"loss {flow.loss:.2f}, gradient norm {flow.norm:.3f}, sparsity {sf.sparsity_of(sparsifier.masks):.4f}")
assert sparsifier.step_count == 200
assert abs(sf.sparsity_of(sparsifier.masks) - 0.95) < 1e-3
assert flow.loss < 2.2
