"""The same loop, storing active weights only: convert, train with RigL, save, load, and get the dense model back."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import nn

import sparseflow as sf

torch.manual_seed(0)
x, y = torch.randn(2048, 64), torch.randint(0, 10, (2048,))
dense = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))

masks = sf.random_masks(dense, 0.95, seed=0)
sf.initialize_(dense, masks, scheme="sparse", seed=0)
model = sf.engine.convert(dense, masks)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
method = sf.RigL(drop_fraction=0.3, update_every=20, total_steps=100)
sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=0)

for _ in range(100):
    batch = torch.randint(0, len(x), (128,))
    loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

sparsifier.check()
weights = sum(layer.values.numel() for layer in sf.engine.sparse_layers(model).values())
assert weights == sum(int(mask.sum()) for mask in masks.values())
assert any(not torch.equal(masks[name], mask) for name, mask in sparsifier.masks.items())  # RigL moved them

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.safetensors"
    dense_bytes, file_bytes = sf.engine.save(model, path)
    again = sf.engine.load(copy.deepcopy(dense), path)
assert file_bytes < 0.12 * dense_bytes
assert torch.equal(again(x), model(x))

back = sf.engine.to_dense(model)
assert torch.allclose(back(x), model(x), atol=1e-5)
assert list(back.state_dict()) == list(dense.state_dict())
print(f"{weights} weights, {file_bytes} bytes instead of {dense_bytes}")
