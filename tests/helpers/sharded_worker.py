"""One process of tests/sparsifier/test_sharded.py: small networks, which FSDP2 shards if there are two."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import sparseflow as sf
from own_method import OneByOne
from sparseflow.analysis.flow import descent, gradient_flow
from sparseflow.data import open_images
from sparseflow.rng import stream
from sparseflow.sharded import full, is_sharded, local
from sparseflow.sparsifier.stored import stored_weights
from sparseflow.training.images import ImageRun
from sparseflow.training.loop import train_images
from sparseflow.training.probes import evaluate
from sparseflow.training.ranks import ranks_of_torchrun
from sparseflow.training.setup import set_up

STEPS, BATCH = 20, 8
#: Blocks of all outputs of a layer, whose rows two processes share, so that each holds a part of every block.
BLOCKS = {"0.weight": (5, 1), "4.weight": (7, 2)}
_moving: dict[str, Any] = {"drop_fraction": 0.4, "update_every": 4}
METHODS: dict[str, sf.updaters.Method] = {
    "static": sf.Static(),
    "set": sf.SET(**_moving),
    "rigl": sf.RigL(**_moving),
    "rigl_inverted": sf.RigLInverted(**_moving),
    "rigl_replaces_step": sf.RigL(**_moving, replaces_step=True),
    "snfs": sf.SNFS(**_moving),
    "gmp": sf.GMP(sparsity=0.8, begin=4, end=16, update_every=4),
    "gmp_global": sf.GMP(sparsity=0.8, begin=4, end=16, update_every=4, scope="global"),
    "acdc": sf.ACDC(sparsity=0.8, begin=4, phase_steps=4, end=16),
    "mest": sf.MEST(**_moving),
    "mest_soft": sf.MEST(**_moving, soft=True, schedule="stages", update_until=16),
    "granet": sf.GraNet(sparsity=0.8, begin=4, end=12, drop_fraction=0.4, update_every=4, update_until=20),
    "chts": sf.CHTs(**_moving, update_until=20),
    "chtss": sf.CHTss(**_moving, sparsity=0.8, end=12, update_until=20, chain=("0.weight", "4.weight", "6.weight")),
    "srigl": sf.SRigL(**_moving, salient_share=0.9),
    "n_of_m": sf.NOfM(sparsity=0.8, begin=4, end=16, update_every=4),
    "top_kast": sf.TopKAST(sparsity=0.8, update_every=4, update_until=16),
    "sr_ste": sf.SRSTE(sparsity=0.8, update_every=4, update_until=16),
    "own": OneByOne(every=4, turned="4.weight"),
    "set_blocks": sf.SET(**_moving, block=BLOCKS),
    "rigl_blocks": sf.RigL(**_moving, block=BLOCKS),
    "gmp_blocks": sf.GMP(sparsity=0.8, begin=4, end=16, update_every=4, block=BLOCKS),
    "gmp_global_blocks": sf.GMP(sparsity=0.8, begin=4, end=16, update_every=4, scope="global", block=BLOCKS),
}
OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}
#: Beginnings of the names of methods that start from dense masks.
DENSE = ("gmp", "acdc", "granet", "n_of_m", "top_kast", "sr_ste")
#: Pairs of method and optimizer.
CASES = [*((method, "momentum") for method in METHODS), ("rigl", "nesterov"), ("rigl", "adam")]


def network() -> nn.Sequential:
    """Layers of 5 outputs and of 1, which do not halve evenly; one of two processes holds nothing of the single row."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Flatten(), nn.Linear(80, 7), nn.Tanh()),
        *(nn.Linear(7, 1, bias=False), nn.Linear(1, 3)),
    ).double()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.3, generator=stream(0, "sharded", name))
    # Statistics of a batch differ between a whole batch and its halves.
    model[1].eval()
    return model


def cut(model: nn.Sequential) -> nn.Sequential:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[4], model[6]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def examples(step: int, ranks: Any) -> tuple[Tensor, Tensor]:
    generator = stream(step, "batch")
    inputs = torch.randn(BATCH, 1, 6, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (BATCH,), generator=generator)
    mine = slice(ranks.rank * BATCH // ranks.world, (ranks.rank + 1) * BATCH // ranks.world)
    return inputs[mine], targets[mine]


def made(
    ranks: Any, method: str, optimizer_name: str, **options: Any
) -> tuple[nn.Sequential, torch.optim.Optimizer, sf.Sparsifier]:
    model = network()
    block = getattr(METHODS[method], "block", (1, 1))
    masks = sf.dense_masks(model) if method.startswith(DENSE) else sf.random_masks(model, 0.5, seed=0, block=block)
    if method == "srigl":
        masks = sf.constant_fan_in_masks(model, 0.5, seed=0)
    if ranks.world > 1:
        cut(model)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    return model, optimizer, sf.Sparsifier(model, optimizer, masks, METHODS[method], **{"seed": 0, **options})


def train(ranks: Any, model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs, targets = examples(step, ranks)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: full(tensor.detach()).clone() for name, tensor in tensors.items()}


def run(ranks: Any, method: str, optimizer_name: str) -> dict[str, Any]:
    model, optimizer, sparsifier = made(ranks, method, optimizer_name)
    moved = []
    sparsifier.after_update.append(
        lambda step, changes: moved.append((step, {name: int(full(c.grown.sum())) for name, c in changes.items()}))
    )
    train(ranks, model, optimizer, range(STEPS))
    sparsifier.check()
    off = {
        name: int(((local(parameter.detach()) != 0) & ~local(sparsifier.masks[name])).sum())
        for name, parameter in model.named_parameters()
        if name in sparsifier.masks
    }
    whole_batch = stream(99, "batch")
    inputs = torch.randn(BATCH, 1, 6, 6, generator=whole_batch, dtype=torch.float64)
    batch = (inputs, torch.randint(3, (BATCH,), generator=whole_batch))
    gained = descent(model, F.cross_entropy, [batch], sparsifier.masks, learning_rate=0.1)
    return {
        "masks": whole(sparsifier.masks),
        "weights": whole(dict(model.named_parameters())),
        "moved": moved,
        "off": off,
        "flow": gradient_flow(model, F.cross_entropy, [batch], sparsifier.masks).norm,
        "gained": tuple(gained),
        "sparsity": sf.sparsity_of(sparsifier.masks),
        "bytes": sum(local(mask).numel() for mask in sparsifier.masks.values()),
        "total": sum(mask.numel() for mask in sparsifier.masks.values()),
        "sharded": [name for name, mask in sparsifier.masks.items() if is_sharded(mask)],
    }


def clipped(ranks: Any) -> dict[str, Any]:
    """Clip masked gradients before each step; the norm is that of the whole model."""
    model, optimizer, sparsifier = made(ranks, "rigl", "momentum")
    norms = []
    for step in range(10):
        inputs, targets = examples(step, ranks)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        sparsifier.mask_gradients_()
        norms.append(float(full(nn.utils.clip_grad_norm_(model.parameters(), 0.05))))
        sparsifier.mask_gradients_()
        optimizer.step()
    sparsifier.check()
    return {"norms": norms, "masks": whole(sparsifier.masks), "weights": whole(dict(model.named_parameters()))}


def scaled(ranks: Any) -> dict[str, Any]:
    """Let the gradient overflow in one process, which must skip the step in all."""
    model, optimizer, sparsifier = made(ranks, "rigl", "momentum")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(10):
        inputs, targets = examples(step, ranks)
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(inputs), targets)).backward()
        if step == 3 and ranks.rank == 0:
            local(model[0].weight.grad)[0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
    sparsifier.check()
    parts = {"masks": whole(sparsifier.masks), "weights": whole(dict(model.named_parameters()))}
    return {"steps": sparsifier.step_count, "scale": scaler.get_scale(), **parts}


def given(ranks: Any) -> dict[str, Any]:
    """Grow by whole gradients that the caller computes."""

    def gradients() -> dict[str, Tensor]:
        return {name: torch.randn(shape, generator=stream(0, "given", name)) for name, shape in shapes.items()}

    shapes = {name: parameter.shape for name, parameter in network().named_parameters()}
    model, optimizer, sparsifier = made(ranks, "rigl", "momentum", gradient_fn=gradients)
    train(ranks, model, optimizer, range(10))
    return {"masks": whole(sparsifier.masks)}


def watched(ranks: Any) -> dict[str, Any]:
    """Run the model in hooks: a forward pass gathers weights, and after an update it must see the new ones."""
    model, optimizer, sparsifier = made(ranks, "set", "momentum")
    inputs, _ = examples(99, type(ranks)())
    outputs: list[Tensor] = []

    def look(*_: object) -> None:
        with torch.no_grad():
            outputs.append(model(inputs))

    sparsifier.before_update.append(look)
    sparsifier.after_update.append(look)
    train(ranks, model, optimizer, range(8))
    look()
    sparsifier.check()
    return {"outputs": torch.stack(outputs)}


def kept_gradients(ranks: Any) -> dict[str, Any]:
    """Measure gradient flow, which must change no gradient and leave weights sharded."""
    model, _, sparsifier = made(ranks, "static", "momentum")
    inputs, targets = examples(0, ranks)
    F.cross_entropy(model(inputs), targets).backward()
    before = {name: parameter.grad for name, parameter in model.named_parameters()}
    values = whole(before)
    gradient_flow(model, F.cross_entropy, [examples(1, type(ranks)())], sparsifier.masks)
    after = {name: parameter.grad for name, parameter in model.named_parameters()}
    same = all(after[name] is gradient for name, gradient in before.items())
    return {"same": same and all(torch.equal(full(after[name]), value) for name, value in values.items())}


def resumed(ranks: Any) -> dict[str, Any]:
    """Train 8 steps, reload a state with sharded or whole masks, train 12 more: equal to 20 steps, bit for bit.

    The 8th step's update has grown weights, which are zero: those of the fresh model must not take their places.
    """
    ends = []
    for way in ("through", "parts", "whole"):
        model, optimizer, sparsifier = made(ranks, "snfs", "momentum")
        train(ranks, model, optimizer, range(8))
        if way != "through":
            states = model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()
            assert {type(mask) for mask in states[2]["masks"].values()} == {type(model[0].weight.data)}
            if way == "whole":
                states[2].update({key: whole(states[2][key]) for key in ("masks", "gradient_mean")})
            model, optimizer, sparsifier = made(ranks, "snfs", "momentum", seed=5)
            model.load_state_dict(states[0])
            optimizer.load_state_dict(states[1])
            sparsifier.load_state_dict(states[2])
        train(ranks, model, optimizer, range(8, STEPS))
        sparsifier.check()
        ends.append((whole(dict(model.named_parameters())), whole(sparsifier.masks), dict(sparsifier.fingerprints)))
    weights = [torch.cat([value.reshape(-1) for value in end[0].values()]) for end in ends]
    masks = [torch.cat([value.reshape(-1) for value in end[1].values()]) for end in ends]
    return {"weights": torch.stack(weights), "masks": torch.stack(masks), "fingerprints": [end[2] for end in ends]}


def written(ranks: Any) -> dict[str, Any]:
    """Load dense weights between steps, four times; the Sparsifier notices each time, before the next step."""
    model, optimizer, sparsifier = made(ranks, "static", "momentum")
    noticed = []
    for step in range(4):
        model.load_state_dict({name: value.detach() + 1 for name, value in model.state_dict().items()})
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            train(ranks, model, optimizer, range(step, step + 1))
        noticed.append(any("had nonzero weights off the mask" in str(each.message) for each in said))
        sparsifier.check()
    return {"noticed": noticed}


def mask_makers(ranks: Any) -> dict[str, Any]:
    """Make masks from sharded weights, to compare with those from whole weights."""
    model = network()

    def make() -> dict[str, dict[str, Tensor]]:
        return {
            "random": sf.random_masks(model, 0.7, seed=1),
            "magnitude": sf.magnitude_masks(model, 0.7),
            "random blocks": sf.random_masks(model, 0.7, seed=1, block=BLOCKS),
            "magnitude blocks": sf.magnitude_masks(model, 0.7, block=BLOCKS),
            "global blocks": sf.magnitude_masks(model, 0.7, scope="global", block=BLOCKS),
        }

    expected = make()
    cut(model)
    found = make()
    sf.apply_masks_(model, expected["random"])
    left = {name: full(dict(model.named_parameters())[name].detach()) != 0 for name in expected["random"]}
    return {"expected": expected, "found": {key: whole(masks) for key, masks in found.items()} | {"applied": left}}


def errors(ranks: Any) -> dict[str, str]:
    """Error messages that each process gets; all must get them."""
    messages = {}
    model, optimizer, sparsifier = made(ranks, "static", "momentum")
    if ranks.rank == 1:
        weight, mask = local(model[4].weight.detach()), local(sparsifier.masks["4.weight"])
        weight[~mask] = 1.0
    messages["broken"] = error_of(sparsifier.check)
    messages["measured"] = error_of(
        lambda: gradient_flow(model, F.cross_entropy, [examples(0, type(ranks)())], sparsifier.masks)
    )
    shapes = {name: parameter.shape for name, parameter in network().named_parameters()}

    def others() -> dict[str, Tensor]:
        drawn = {name: stream(ranks.rank, "given", name) for name in shapes}
        return {name: torch.randn(shape, generator=drawn[name]) for name, shape in shapes.items()}

    model, optimizer, sparsifier = made(ranks, "rigl", "momentum", gradient_fn=others)
    messages["gradients"] = error_of(lambda: train(ranks, model, optimizer, range(8)))
    messages["gradients at step"] = str(sparsifier.step_count)
    messages["seeds"] = error_of(lambda: made(ranks, "set", "momentum", seed=ranks.rank))
    stored = sf.engine.convert(network().float(), sf.random_masks(network(), 0.9, seed=0))
    fully_shard(stored)
    messages["stored"] = error_of(lambda: stored_weights(stored))
    return messages


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def images(ranks: Any, data: Path, run: ImageRun) -> dict[str, Any]:
    """Train on images, with the test images shared unevenly between processes."""
    logged: list[tuple[int, dict[str, float]]] = []
    trainer = train_images(
        run,
        open_images(data, "train"),
        open_images(data, "test"),
        trainer=set_up(run, ranks, sharded=True),
        log=lambda step, values: logged.append((step, dict(values))),
    )
    weights = whole(dict(trainer.sparsifier.model.named_parameters()))
    return {"logged": logged, "masks": whole(trainer.sparsifier.masks), "weights": weights}


SCENES = {
    "clipped": clipped, "scaled": scaled, "given": given, "watched": watched, "kept gradients": kept_gradients,
    "resumed": resumed, "written": written,
}  # fmt: skip
TINY = ImageRun(
    width=1 / 16, num_classes=3, sparsity=0.5, steps=4, batch_size=8, micro_batch=4, update_every=2, update_until=4,
    learning_rate=0.05, prune_begin=1, prune_end=3, image_size=32, log_every=1, eval_every=2, probe_images=4,
)  # fmt: skip
#: Batch norms of few images magnify rounding, so ResNet-50 takes one micro-batch a process, whose mean is exact.
RUNS = {"resnet50": TINY, "vgg16": TINY.with_(network="vgg16", method="set", micro_batch=2)}


def main(folder: str, data: str) -> None:
    torch.set_num_threads(1)
    with ranks_of_torchrun() as ranks:
        results: dict[str, Any] = {"/".join(case): run(ranks, *case) for case in CASES}
        results |= {name: scene(ranks) for name, scene in SCENES.items()}
        results |= {name: images(ranks, Path(data), settings) for name, settings in RUNS.items()}
        if ranks.world > 1:
            results |= {"mask makers": mask_makers(ranks), "errors": errors(ranks)}
            fewer = [(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))] if ranks.is_first else []
            trainer = set_up(TINY, ranks, sharded=True)
            results["errors"]["no image"] = error_of(
                lambda: evaluate(trainer.sparsifier.model, fewer, ranks=ranks, together=True)
            )
            formatted = TINY.with_(channels_last=True)
            results["errors"]["layout"] = error_of(lambda: set_up(formatted, ranks, sharded=True))
        torch.save(results, Path(folder) / f"{ranks.world}-{ranks.rank}.pt")
