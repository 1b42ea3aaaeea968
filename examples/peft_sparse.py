"""Fine-tune a sparse network with PEFT: what a low-rank adapter does to its zeros, and an adapter that keeps them."""

import copy
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import sparseflow as sf
from sparseflow.data.digits import load_dataset
from sparseflow.integrations.peft import merge_within_masks, sparse_adapter

digits = load_dataset("mnist-5k")
x, y = digits.train_images.flatten(1), digits.train_labels
new_x, new_y = x.flip(1), y  # the digits turned upside down: the task to adapt to


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int = 150) -> None:
    """Adam on random batches, over the weights that ask for gradients."""
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=2e-3)
    for step in range(steps):
        batch = torch.randint(len(x), (64,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()


def report(name: str, model: Any) -> float:
    """The share of test digits, turned upside down, that are right, and the zeros of the first layer."""
    right: float = (model(digits.test_images.flatten(1).flip(1)).argmax(1) == digits.test_labels).float().mean().item()
    print(f"{name:34} {right:6.1%} right, {(model[0].weight == 0).float().mean():6.1%} zeros in the first layer")
    return right


torch.manual_seed(0)
base = nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))
masks = sf.random_masks(base, 0.9, allocation="erk", seed=0)
sf.initialize_(base, masks, seed=0)
optimizer = torch.optim.Adam(base.parameters(), lr=2e-3)
with sf.Sparsifier(base, optimizer, masks, sf.Static(), seed=0):
    for batch in torch.randperm(4000).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(base(x[batch]), y[batch]).backward()
        optimizer.step()
before = report("sparse base, before it is adapted", base)

lora = get_peft_model(copy.deepcopy(base), LoraConfig(r=8, target_modules=["0", "2"]))
train(lora, new_x, new_y)
filled = report("LoRA, merge_and_unload()", copy.deepcopy(lora).merge_and_unload())
cut = report("LoRA, merge_within_masks()", merge_within_masks(lora))

adapted = sparse_adapter(copy.deepcopy(base), masks)
train(adapted, new_x, new_y)
kept = adapted.merge_and_unload()
right = report("sparse_adapter(), merge_and_unload()", kept)

assert all(not kept.get_parameter(name)[~mask].any() for name, mask in masks.items())
assert right > before + 0.3
