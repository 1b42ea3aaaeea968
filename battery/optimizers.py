"""The optimizers that are tried: every name of seven libraries, the wrappers, and how each is made."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

Loop = Literal["plain", "closure", "both", "value", "fused"]
"""How a loop steps: ``step()`` after a backward pass; ``step(closure)``; both; ``step(lambda: loss)`` after one; or
``fused_backward(loss, lr)`` instead of backward pass and step."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One optimizer of the table."""

    library: str
    """Heading that it stands under."""
    name: str
    """As a user types it."""
    make: Callable[[nn.Module], Any]
    """The optimizer of a model, or a list of optimizers."""
    loop: Loop = "plain"
    graph: bool = False
    """Whether the backward pass keeps a graph, for second derivatives."""
    ranks: bool = False
    """Whether a process group must exist; the trial makes one of one process."""
    flat: bool = False
    """Whether the network has linear layers alone."""


#: Library -> its distribution, whose version the page names.
DISTRIBUTIONS = {
    "torch.optim": "torch",
    "timm.optim": "timm",
    "pytorch-optimizer": "pytorch-optimizer",
    "schedulefree": "schedulefree",
    "prodigyopt": "prodigyopt",
    "torchao.optim": "torchao",
    "bitsandbytes.optim": "bitsandbytes",
    "wrappers": "accelerate",
}


def versions() -> dict[str, str]:
    """Distribution -> installed version, without the part that names a build (``+cpu``)."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in sorted(set(DISTRIBUTIONS.values()))}


def every() -> list[Row]:
    """All rows, in the order of the page.

    Raises:
        ModuleNotFoundError: if a library is not installed.
    """
    declare_missing_operators()
    sources = (_torch, _timm, _pytorch_optimizer, _schedulefree, _prodigyopt, _torchao, _bitsandbytes, _wrappers)
    return [row for source in sources for row in source()]


def declare_missing_operators() -> None:
    """Let torchvision, which timm imports, be imported where its compiled part does not fit the installed torch.

    PyPI's torchvision is built for CUDA. Beside a torch built for CPUs its two operators do not load, and the import
    fails for want of their names. No optimizer calls them.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", signature)
        importlib.import_module("torchvision")


# -- parameters as some optimizers want them -----------------------------------------------------------------------


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters with two dimensions."""
    return [parameter for parameter in model.parameters() if parameter.dim() == 2]


def others(model: nn.Module) -> list[nn.Parameter]:
    """The parameters with any other number of dimensions."""
    return [parameter for parameter in model.parameters() if parameter.dim() != 2]


def _groups(model: nn.Module, for_matrices: dict[str, Any], for_others: dict[str, Any]) -> list[dict[str, Any]]:
    pairs = ((matrices(model), for_matrices), (others(model), for_others))
    return [{"params": parameters, **options} for parameters, options in pairs if parameters]


def _plain(model: nn.Module, *, optimizer: Callable[..., Any], **options: Any) -> Any:
    return optimizer(list(model.parameters()), **options)


# -- one function for each library ---------------------------------------------------------------------------------


def _classes(module: Any, base: type) -> Iterator[tuple[str, type]]:
    for name, value in sorted(vars(module).items()):
        if inspect.isclass(value) and issubclass(value, base) and value is not base and not name.startswith("_"):
            yield name, value


def _torch() -> Iterator[Row]:
    optim = torch.optim
    options: dict[str, dict[str, Any]] = {
        "LBFGS": {"lr": 0.1},
        "SGD": {"lr": 0.1, "momentum": 0.9},
        "RMSprop": {"momentum": 0.9},
    }
    for name, optimizer in _classes(optim, optim.Optimizer):
        make = partial(_plain, optimizer=optimizer, **options.get(name, {}))
        if name == "Muon":
            yield Row(library="torch.optim", name="[Muon, AdamW]", make=_muon_and_adamw)
        else:
            loop: Loop = "closure" if name == "LBFGS" else "plain"
            yield Row(library="torch.optim", name=name, make=make, loop=loop)
    variants: list[tuple[str, dict[str, Any]]] = [
        ("Adagrad", {"initial_accumulator_value": 0.1}),
        ("Adam", {"amsgrad": True}),
        ("AdamW", {"foreach": True}),
        ("AdamW", {"fused": True}),
        ("LBFGS", {"line_search_fn": "strong_wolfe"}),
        ("RMSprop", {"centered": True}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ]
    for name, given in variants:
        shown = ", ".join(f"{key}={value!r}" for key, value in given.items() if key != "lr")
        make = partial(_plain, optimizer=getattr(optim, name), **given)
        loop = "closure" if name == "LBFGS" else "plain"
        yield Row(library="torch.optim", name=f"{name}({shown})", make=make, loop=loop)


def _muon_and_adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    made: list[torch.optim.Optimizer] = [torch.optim.Muon(matrices(model))]
    return [*made, torch.optim.AdamW(others(model))] if others(model) else made


def _timm() -> Iterator[Row]:
    optim: Any = importlib.import_module("timm.optim")

    def make(model: nn.Module, *, name: str) -> Any:
        return optim.create_optimizer_v2(list(model.parameters()), opt=name, lr=1e-3)

    for name in [*optim.list_optimizers(), "lookahead_adamw"]:
        graph = bool("hess" in name)
        yield Row(library="timm.optim", name=name, make=partial(make, name=name), graph=graph)


#: Options that an optimizer of pytorch-optimizer cannot do without.
_NEEDED: dict[str, dict[str, Any]] = {
    "ranger21": {"num_iterations": 100},
    "bsam": {"num_data": 64},
    "lbfgs": {"lr": 0.1},
}
_LOW_RANK = {"rank": 8, "update_proj_gap": 3, "scale": 1.0, "projection_type": "std"}
_LOOPS: dict[str, Loop] = {"lbfgs": "closure", "bsam": "both", "alig": "value", "lomo": "fused", "adalomo": "fused"}


def _pytorch_optimizer() -> Iterator[Row]:
    package: Any = importlib.import_module("pytorch_optimizer")

    def make(model: nn.Module, *, name: str) -> Any:
        optimizer = package.load_optimizer(name)
        arguments = inspect.signature(optimizer).parameters
        options = _NEEDED.get(name, {})
        if "model" in arguments:
            return optimizer(model, **options)
        if "adamw_lr" in arguments:
            return optimizer(_groups(model, {"use_muon": True}, {"use_muon": False}), **options)
        if name == "spectralsphere":
            made = [optimizer(matrices(model))]
            return [*made, torch.optim.AdamW(others(model))] if others(model) else made
        if name in ("galore", "fira", "apollo"):
            return optimizer(_groups(model, _LOW_RANK, {}), **options)
        return optimizer(list(model.parameters()), **options)

    for name in package.get_supported_optimizers():
        yield Row(
            library="pytorch-optimizer",
            name="[SpectralSphere, AdamW]" if name == "spectralsphere" else package.load_optimizer(name).__name__,
            make=partial(make, name=name),
            loop=_LOOPS.get(name, "plain"),
            graph=name in ("adahessian", "sophiah"),
            ranks=name in ("demo", "distributedmuon"),
        )


def _schedulefree() -> Iterator[Row]:
    package: Any = importlib.import_module("schedulefree")
    for name, optimizer in _classes(package, torch.optim.Optimizer):
        loop: Loop = "closure" if name.endswith("Closure") else "plain"
        yield Row(library="schedulefree", name=name, make=partial(_plain, optimizer=optimizer), loop=loop)


def _prodigyopt() -> Iterator[Row]:
    package: Any = importlib.import_module("prodigyopt")
    for name, optimizer in _classes(package, torch.optim.Optimizer):
        yield Row(library="prodigyopt", name=name, make=partial(_plain, optimizer=optimizer))


def _torchao() -> Iterator[Row]:
    package: Any = importlib.import_module("torchao.optim")
    for name, optimizer in _classes(package, torch.optim.Optimizer):
        yield Row(library="torchao.optim", name=name, make=partial(_plain, optimizer=optimizer))


def _bitsandbytes() -> Iterator[Row]:
    package: Any = importlib.import_module("bitsandbytes.optim")
    # Without a learning rate or a momentum these raise.
    options: dict[str, dict[str, Any]] = {"SGD": {"lr": 0.1, "momentum": 0.9}, "LARS": {"lr": 0.1, "momentum": 0.9}}
    for name, optimizer in _classes(package, torch.optim.Optimizer):
        given = options.get(name.removesuffix("8bit").removesuffix("32bit").removeprefix("Pytorch"), {})
        yield Row(library="bitsandbytes.optim", name=name, make=partial(_plain, optimizer=optimizer, **given))


def _wrappers() -> Iterator[Row]:
    from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer

    package: Any = importlib.import_module("pytorch_optimizer")
    free: Any = importlib.import_module("schedulefree")
    timm: Any = importlib.import_module("timm.optim")
    torchao: Any = importlib.import_module("torchao.optim")
    adamw = torch.optim.AdamW

    def around(wrapper: Callable[..., Any], **options: Any) -> Callable[[nn.Module], Any]:
        return lambda model: wrapper(adamw(model.parameters()), **options)

    def free_around(wrapper: Callable[..., Any]) -> Callable[[nn.Module], Any]:
        # Its own state makes AdamW believe that it has state already: it works around SGD without momentum alone.
        return lambda model: wrapper(torch.optim.SGD(model.parameters(), lr=0.1))

    def of_class(wrapper: Callable[..., Any], **options: Any) -> Callable[[nn.Module], Any]:
        return lambda model: wrapper(list(model.parameters()), base_optimizer=adamw, lr=1e-3, **options)

    def offload(wrapper: Callable[..., Any]) -> Callable[[nn.Module], Any]:
        return lambda model: wrapper(list(model.parameters()), adamw)

    def wsam(model: nn.Module) -> Any:
        return package.WSAM(model, list(model.parameters()), base_optimizer=adamw, lr=1e-3)

    def accelerated(model: nn.Module) -> Any:
        accelerate: Any = importlib.import_module("accelerate")
        return accelerate.Accelerator(cpu=True).prepare_optimizer(adamw(model.parameters()))

    def zero(model: nn.Module) -> Any:
        return ZeroRedundancyOptimizer(model.parameters(), adamw, lr=1e-3)

    def local_sgd(model: nn.Module) -> Any:
        from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

        return PostLocalSGDOptimizer(adamw(model.parameters()), PeriodicModelAverager(period=4))

    made: list[tuple[str, Callable[[nn.Module], Any], Loop]] = [
        ("accelerate.AcceleratedOptimizer", accelerated, "plain"),
        ("pytorch_optimizer.CPUOffloadOptimizer", offload(package.CPUOffloadOptimizer), "plain"),
        ("pytorch_optimizer.FriendlySAM", of_class(package.FriendlySAM), "both"),
        ("pytorch_optimizer.Lookahead", around(package.Lookahead, k=3), "plain"),
        ("pytorch_optimizer.LookSAM", of_class(package.LookSAM), "both"),
        ("pytorch_optimizer.OrthoGrad", around(package.OrthoGrad), "plain"),
        ("pytorch_optimizer.PCGrad", around(package.PCGrad), "plain"),
        ("pytorch_optimizer.SAM", of_class(package.SAM), "both"),
        ("pytorch_optimizer.SafeFP16Optimizer", around(package.SafeFP16Optimizer), "plain"),
        ("pytorch_optimizer.ScheduleFreeWrapper", around(package.ScheduleFreeWrapper), "plain"),
        ("pytorch_optimizer.TRAC", around(package.TRAC), "plain"),
        ("pytorch_optimizer.WSAM", wsam, "closure"),
        ("schedulefree.ScheduleFreeWrapper", free_around(free.ScheduleFreeWrapper), "plain"),
        ("schedulefree.ScheduleFreeWrapperReference", free_around(free.ScheduleFreeWrapperReference), "plain"),
        ("timm.optim.Lookahead", around(timm.Lookahead, k=3), "plain"),
        ("torch.distributed.optim.PostLocalSGDOptimizer", local_sgd, "plain"),
        ("torch.distributed.optim.ZeroRedundancyOptimizer", zero, "plain"),
        ("torchao.optim.CPUOffloadOptimizer", offload(torchao.CPUOffloadOptimizer), "plain"),
    ]
    for name, make, loop in made:
        ranks = name.startswith("torch.distributed")
        yield Row(library="wrappers", name=name, make=make, loop=loop, ranks=ranks)
