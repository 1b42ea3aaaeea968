"""Pruning at initialisation by curvature: Optimal Brain Damage with the Hessian's diagonal estimated two ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sparseflow.batches import Batch, each, forward, loss_of, map_tensors
from sparseflow.boundary import checked
from sparseflow.gradients import trainable, twice_differentiable, undisturbed
from sparseflow.init.prune import scored
from sparseflow.masks.select import Rule, unwrap
from sparseflow.ranges import Range
from sparseflow.rng import stream
from sparseflow.types import Batches, LossFn


@checked()
def fisher_diagonal(model: nn.Module, loss_fn: LossFn | None, batches: Batches) -> dict[str, Tensor]:
    r"""The empirical Fisher information's diagonal: the mean over examples of each one's squared gradient.

    .. math:: F_{ii} = \frac{1}{N} \sum_{n=1}^{N} \left(\frac{\partial L_n}{\partial \theta_i}\right)^2

    One backward pass for each example, in eval mode.

    Args:
        model: Left as it is.
        loss_fn: As :func:`sparseflow.snip`; it is given one example at a time.
        batches: As :func:`sparseflow.snip`.

    Returns: parameter name -> :math:`F_{ii}`, of all that require a gradient.

    Reference: Gollini Navarrete et al. (2025), arXiv 2502.11450. Their code squares the gradients of batches, which is
    the same for batches of one, as in its settings.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> fisher_diagonal(layer, lambda output, _: output.sum(), [(torch.tensor([[1.0], [3.0]]), torch.zeros(2))])
    {'weight': tensor([[5.]])}
    """
    parameters = trainable(model)
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = 0
    with undisturbed(model, training=False), torch.enable_grad():
        for batch in each(batches):
            for one in _examples(batch):
                loss = loss_of(loss_fn, forward(model, one.inputs), one.targets)
                gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
                for total, gradient in zip(sums.values(), gradients, strict=True):
                    total.addcmul_(gradient, gradient)
                count += 1
    return {name: total.div_(count).detach() for name, total in sums.items()}


@checked(samples=Range(1))
def hutchinson_diagonal(
    model: nn.Module, loss_fn: LossFn | None, batches: Batches, *, samples: int = 10, seed: int
) -> dict[str, Tensor]:
    r"""The diagonal of the mean loss's Hessian, estimated without bias from products with random signs.

    .. math:: \hat H_{ii} = \frac{1}{S} \sum_{s=1}^{S} z_i^{(s)} (H z^{(s)})_i, \qquad z_i^{(s)} = \pm 1

    Of variance :math:`\sum_{j \ne i} H_{ij}^2 / S` for one batch; exact where the Hessian is diagonal. In eval mode.

    Args:
        model: Left as it is; twice differentiable (of ReLU, the curvature through its units alone counts).
        loss_fn: As :func:`sparseflow.snip`.
        batches: As :func:`sparseflow.snip`.
        samples: :math:`S`, products for each batch (the authors' code: 10).
        seed: Signs come from ``stream(seed, "hutchinson")``.

    Returns: parameter name -> :math:`\hat H_{ii}`, of all that require a gradient.

    Reference: Bekas, Kokiopoulou and Saad (2007); Gollini Navarrete et al. (2025), arXiv 2502.11450. Their code divides
    the network's outputs by 200 first; here the loss is used as given.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> half_square = lambda output, target: (output**2).sum() / 2
    >>> hutchinson_diagonal(layer, half_square, [(torch.tensor([[3.0, 0.0]]), torch.zeros(1))], seed=0)
    {'weight': tensor([[9., 0.]])}
    """
    found = list(each(batches))
    total = sum(batch.size for batch in found)
    parameters = trainable(model)
    held = list(parameters.values())
    sums = [torch.zeros_like(parameter) for parameter in held]
    generator = stream(seed, "hutchinson")
    # Without wrappers: torch.compile makes first derivatives only.
    with undisturbed(model, training=False), torch.enable_grad(), twice_differentiable():
        for batch in found:
            loss = loss_of(loss_fn, forward(unwrap(model), batch.inputs), batch.targets) * (batch.size / total)
            first = torch.autograd.grad(loss, held, create_graph=True, materialize_grads=True)
            for _ in range(samples):
                signs = [_signs(parameter, generator) for parameter in held]
                terms = [(g * z).sum() for g, z in zip(first, signs, strict=True) if g.requires_grad]
                if not terms:  # a linear loss
                    break
                products = torch.autograd.grad(
                    torch.stack(terms).sum(), held, retain_graph=True, materialize_grads=True
                )
                for estimate, z, product in zip(sums, signs, products, strict=True):
                    estimate.addcmul_(z, product)
    return {name: estimate.div_(samples).detach() for name, estimate in zip(parameters, sums, strict=True)}


@checked()
def fisher_obd(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Batches,
    *,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
) -> dict[str, Tensor]:
    r"""Optimal Brain Damage by the empirical Fisher: how much the loss should rise to second order if a weight is cut.

    .. math:: s_i = \tfrac{1}{2} F_{ii}\, \theta_i^2

    Networks with batch norm should have seen some batches in training mode first, such as by
    ``torch.optim.swa_utils.update_bn(loader, model)``: with the statistics that a fresh norm has, whole layers may be
    ranked last (the paper's warm-up).

    Args:
        model: Dense, as initialised; left as it is.
        loss_fn: As :func:`sparseflow.snip`.
        batches: As :func:`sparseflow.snip`; one backward pass for each example, see :func:`fisher_diagonal`.
        include: Rules for more weights to score, see :func:`sparseflow.masks.select.weights`.
        exclude: Rules for weights to leave out.

    Returns: parameter name -> score; the highest should stay.

    Reference: LeCun, Denker and Solla (1989), *Optimal Brain Damage*; Gollini Navarrete et al. (2025), *What Scalable
    Second-Order Information Knows for Pruning at Initialization*, arXiv 2502.11450.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = layer.weight.data.fill_(2.0)
    >>> fisher_obd(layer, lambda output, _: output.sum(), [(torch.tensor([[1.0], [3.0]]), torch.zeros(2))])
    {'weight': tensor([[10.]])}
    """
    chosen = scored(model, include=include, exclude=exclude)
    return _damage(chosen, fisher_diagonal(model, loss_fn, batches))


@checked(samples=Range(1))
def hutchinson_obd(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Batches,
    *,
    samples: int = 10,
    seed: int,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
) -> dict[str, Tensor]:
    r"""Optimal Brain Damage by the Hessian's estimated diagonal.

    .. math:: s_i = \tfrac{1}{2} \hat H_{ii}\, \theta_i^2

    Scores may be negative: where the loss curves downwards, cutting should lower it. Batch norm and the other arguments
    as :func:`fisher_obd`; ``samples`` and ``seed`` as :func:`hutchinson_diagonal`.

    Returns: parameter name -> score; the highest should stay.

    Reference: LeCun, Denker and Solla (1989); Gollini Navarrete et al. (2025), arXiv 2502.11450.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, 5.0]]))
    >>> half_square = lambda output, target: (output**2).sum() / 2
    >>> hutchinson_obd(layer, half_square, [(torch.tensor([[3.0, 0.0]]), torch.zeros(1))], seed=0)
    {'weight': tensor([[18., 0.]])}
    """
    chosen = scored(model, include=include, exclude=exclude)
    return _damage(chosen, hutchinson_diagonal(model, loss_fn, batches, samples=samples, seed=seed))


def _damage(weights: Mapping[str, Tensor], diagonal: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: diagonal[name] * weight.detach().square() / 2 for name, weight in weights.items()}


def _examples(batch: Batch) -> Iterable[Batch]:
    """The examples of a batch, each a batch of one."""
    for number in range(batch.size):

        def one(tensor: Tensor, number: int = number) -> Tensor:
            return tensor[number : number + 1]

        yield Batch(map_tensors(one, batch.inputs), map_tensors(one, batch.targets), 1)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1)
    return drawn.to(like.device, like.dtype)
