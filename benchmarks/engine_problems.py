"""What the engine is measured on: layers and networks, with the step that is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

import sparseflow as sf
from benchmarks.contest import BF16, FLOAT32, INT8, Arrange, Precision, Problem, StepOf
from benchmarks.timing import Step
from sparseflow.networks import build_network
from sparseflow.types import Masks

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
DENSE_IMAGES = ("contiguous", "channels_last")


def forward_backward(x: Tensor, gradient: Tensor, *, of_input: bool) -> StepOf:
    """Forward, and backward from a given gradient, to all parameters and (``of_input``) to the input."""

    def of(model: nn.Module, arrange: Arrange, precision: Precision) -> Step:
        own_x, own_gradient = arrange(x).requires_grad_(of_input), arrange(gradient)
        wanted = [*model.parameters(), own_x]

        def step() -> None:
            for tensor in wanted:
                tensor.grad = None
            with precision():
                y = model(own_x)
            y.float().backward(own_gradient)

        return step

    return of


def inference(x: Tensor) -> StepOf:
    """A forward pass without autograd, in eval mode."""

    def of(model: nn.Module, arrange: Arrange, precision: Precision) -> Step:
        own_x = arrange(x)
        model.eval()

        def step() -> None:
            with torch.inference_mode(), precision():
                model(own_x)

        return step

    return of


def training(x: Tensor, labels: Tensor, optimizer: Optimizer) -> StepOf:
    """A whole training step: cross-entropy, backward and the optimizer."""

    def of(model: nn.Module, arrange: Arrange, precision: Precision) -> Step:
        own_x, own_optimizer = arrange(x), optimizer(model.parameters())

        def step() -> None:
            own_optimizer.zero_grad()
            with precision():
                logits = model(own_x)
            nn.functional.cross_entropy(logits.float(), labels).backward()
            own_optimizer.step()

        return step

    return of


def planned(x: Tensor, labels: Tensor, optimizer: Optimizer, model: nn.Module, masks: Masks) -> Step:
    """The same training step by a plan."""
    plan = sf.engine.plan(model, masks, optimizer(model.parameters()))
    return lambda: plan.step(x, labels)


def user_mlp(smoke: bool) -> Problem:
    """The MLP of docs/performance.md, as a user trains it: forward and backward of batch 128."""
    size, batch = (32, 8) if smoke else (1024, 128)
    model, (x, gradient) = two_layers(size), torch.randn(2, batch, size)
    return Problem(label=f"batch {batch}", model=model, step=forward_backward(x, gradient, of_input=False))


def two_layers(size: int) -> nn.Sequential:
    """Two linear layers as wide as their input, with ReLU after each."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU())


def mlp_inference(batch: int, smoke: bool) -> Problem:
    """The same MLP in eval mode."""
    size = 32 if smoke else 1024
    model = two_layers(size)
    return Problem(
        label=f"batch {batch}", model=model, step=inference(torch.randn(batch, size)), rivals=(FLOAT32, BF16, INT8)
    )


def linear(outputs: int, inputs: int, layout: str, smoke: bool) -> Problem:
    """One linear layer with bias, forward and backward, input and gradient in a layout."""
    if smoke:
        outputs, inputs = outputs // 32, inputs // 32
    batch = 8 if smoke else 128
    torch.manual_seed(0)
    model = nn.Linear(inputs, outputs)
    step = forward_backward(torch.randn(batch, inputs), torch.randn(batch, outputs), of_input=True)
    name = "row-major" if layout == "contiguous" else layout
    return Problem(
        label=f"{outputs}x{inputs}, {name}", model=model, step=step, sparse_layout=layout, work=3 * batch,
        settings={"batch": batch},
    )  # fmt: skip


def few_examples(batch: int, smoke: bool) -> Problem:
    """A linear layer of 4096 inputs and outputs, forward."""
    size = 64 if smoke else 4096
    torch.manual_seed(0)
    model = nn.Linear(size, size)
    return Problem(
        label=f"batch {batch}", model=model, step=inference(torch.randn(batch, size)), rivals=(FLOAT32, BF16, INT8),
        work=batch,
    )  # fmt: skip


def convolution(layout: str, smoke: bool) -> Problem:
    """A 3x3 convolution with padding, forward and backward; input and gradient in a layout."""
    channels, pixels, batch = (4, 6, 8) if smoke else (64, 32, 32)
    torch.manual_seed(0)
    model = nn.Conv2d(channels, channels, 3, padding=1)
    x, gradient = torch.randn(2, batch, channels, pixels, pixels)
    return Problem(
        label=f"{channels}->{channels} on {pixels}x{pixels}, {layout}", model=model,
        step=forward_backward(x, gradient, of_input=True), dense_layouts=DENSE_IMAGES, sparse_layout=layout,
        work=3 * pixels**2 * batch, settings={"batch": batch},
    )  # fmt: skip


def paper_network(network: str, way: str, smoke: bool) -> Problem:
    """A training step of one of the paper's networks for digits, by the engine's layers or by a plan."""
    batch = 8 if smoke else 128
    generator = torch.Generator().manual_seed(0)
    model = build_network(network, generator=generator)
    x = torch.randn(batch, 1, 28, 28, generator=generator)
    labels = torch.randint(0, 10, (batch,), generator=generator)
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    return Problem(
        label=f"batch {batch}", model=model, step=training(x, labels, sgd),
        sparse_step=partial(planned, x, labels, sgd) if way == "plan" else None,
        dense_layouts=DENSE_IMAGES if network == "lenet5" else ("contiguous",),
        settings={"optimizer": "SGD, momentum 0.9"},
    )  # fmt: skip


def image_network(network: str, way: str, width: float, batch: int, smoke: bool) -> Problem:
    """A training step of VGG16 or ResNet-14 on images of 32x32, by the engine's layers or by a plan."""
    if smoke:
        width, batch = 1 / 16, 4
    generator = torch.Generator().manual_seed(0)
    model = build_network(network, generator=generator, num_classes=10, width=width, stem="cifar")
    x = torch.randn(batch, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (batch,), generator=generator)
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    return Problem(
        label=f"width {width:g}, batch {batch}", model=model, step=training(x, labels, sgd),
        allocation="erk" if network == "vgg16" else "uniform",
        sparse_step=partial(planned, x, labels, sgd) if way == "plan" else None,
        dense_layouts=DENSE_IMAGES, settings={"optimizer": "SGD, Nesterov momentum 0.9, weight decay 1e-4"},
    )  # fmt: skip


class Block(nn.Module):
    """A pre-norm transformer block: attention and two layers with GELU, each around a shortcut.

    Attention is written with four separate linear layers, so that any method can make each of them sparse.
    """

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, tokens, width)`` to the same shape."""
        x = x + self._attention(self.norm1(x))
        hidden: Tensor = self.narrow(nn.functional.gelu(self.widen(self.norm2(x))))
        return x + hidden

    def _attention(self, x: Tensor) -> Tensor:
        projected = (layer(x) for layer in (self.query, self.key, self.value))
        q, k, v = (tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2) for tokens in projected)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.out(mixed)
        return out


def transformer_block(smoke: bool) -> Problem:
    """Forward and backward of :class:`Block`, its input's gradient included."""
    width, hidden, heads, batch, tokens = (16, 32, 2, 2, 4) if smoke else (512, 2048, 8, 4, 128)
    torch.manual_seed(0)
    model = Block(width, hidden, heads)
    x, gradient = torch.randn(2, batch, tokens, width)
    return Problem(
        label=f"{batch} x {tokens} tokens", model=model, step=forward_backward(x, gradient, of_input=True),
        work=3 * batch * tokens,
    )  # fmt: skip


def transformer_encoder(batch: int, smoke: bool) -> Problem:
    """Inference of ``nn.TransformerEncoder`` as torch has it."""
    width, hidden, heads, tokens = (16, 32, 2, 4) if smoke else (512, 2048, 8, 32)
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, heads, hidden, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    return Problem(
        label=f"{batch} x {tokens} tokens", model=model, step=inference(torch.randn(batch, tokens, width)),
        rivals=(FLOAT32, BF16, INT8),
    )  # fmt: skip
