"""Products of linear layers with activations by rows, in strips and chunks, against dense products in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparseflow.engine.layers import row_products
from sparseflow.engine.layers.geometry import Window
from sparseflow.engine.layers.pattern import Pattern
from sparseflow.engine.layers.products import Product
from sparseflow.engine.layers.row_products import forward_by_rows, gradients_by_rows, to_rows, turned
from sparseflow.rng import stream

#: Inputs, outputs and density; the last has several blocks of columns and of outputs in its tables.
SIZES = [(5, 4, 1.0), (30, 44, 0.2), (1, 8, 0.5), (40, 1400, 0.02), (2100, 600, 0.01)]


def drawn(
    inputs: int, outputs: int, density: float, batch: int, *, block: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    generator = stream(0, "rows")
    mask = (torch.rand(outputs // block, inputs, generator=generator) < density).repeat_interleave(block, dim=0)
    shapes = {"weight": mask.shape, "bias": (outputs,), "x": (batch, inputs), "g": (batch, outputs)}
    made = {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}
    return made | {"mask": mask, "weight": made["weight"] * mask}


@pytest.mark.parametrize("room", [row_products._ROOM, 1 << 12])
@pytest.mark.parametrize("batch", [2, 17, 128, 300])
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(("inputs", "outputs", "density"), SIZES)
def test_products_by_rows_are_the_dense_ones(
    inputs: int, outputs: int, density: float, batch: int, block: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_products, "_ROOM", room)
    t = drawn(inputs, outputs, density, batch, block=block, dtype=torch.float64)
    product = Product(Pattern.of(t["mask"]), Window(), (1, 1), batch, 8)
    values, source = product.pattern.gather(t["weight"]), turned(t["x"])
    y = forward_by_rows(product, values, t["bias"], source, (batch, outputs), floor=0.0)
    torch.testing.assert_close(y, (t["x"] @ t["weight"].T + t["bias"]).relu())
    torch.testing.assert_close(forward_by_rows(product, values, None, source, (batch, outputs)), t["x"] @ t["weight"].T)
    wanted = product.pattern.gather(t["g"].T @ t["x"])
    wide = torch.cat([t["g"], t["g"]], dim=1)[:, 1 : outputs + 1]  # rows that do not follow each other
    for g, wanted in (
        (t["g"], product.pattern.gather(t["g"].T @ t["x"])),
        (wide, product.pattern.gather(wide.T @ t["x"])),
    ):
        gx, gv, gb = gradients_by_rows(product, values, source, g, inputs=True, bias=True)
        assert gx is not None
        torch.testing.assert_close(to_rows(gx, (batch, inputs)), g @ t["weight"])
        torch.testing.assert_close(gv, wanted)
        torch.testing.assert_close(gb, g.sum(0))
        nothing, gv, gb = gradients_by_rows(product, values, source, g, inputs=False, bias=True)
        assert nothing is None
        torch.testing.assert_close(gv, wanted)
        torch.testing.assert_close(gb, g.sum(0))
    assert gradients_by_rows(product, values, source, t["g"], inputs=True, bias=False)[2] is None


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("inputs", [True, False])
def test_threads_change_no_bit(block: int, inputs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparseflow.engine.layers.threads._WORTH_IT", 1)
    monkeypatch.setattr("sparseflow.engine.layers.threads._WORTH_ADDING", 1)
    t = drawn(200, 700, 0.1, 300, block=block, dtype=torch.float32)
    product = Product(Pattern.of(t["mask"]), Window(), (1, 1), 300, 4)
    values, source = product.pattern.gather(t["weight"]), turned(t["x"])

    def everything() -> list[Tensor]:
        y = forward_by_rows(product, values, t["bias"], source, (300, 700))
        gx, gv, gb = gradients_by_rows(product, values, source, t["g"], inputs=inputs, bias=True)
        storages = [product.forward(values, t["bias"], source), *product.gradients(values, source, turned(t["g"]))]
        return [y, gv, *storages, *(each for each in (gx, gb) if each is not None)]

    alone = everything()
    torch.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(alone, everything(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (5, 1), (16, 16), (19, 35)])
def test_a_matrix_turned_and_turned_back_is_itself(rows: int, columns: int, dtype: torch.dtype) -> None:
    x = torch.randn(rows, columns + 3, dtype=dtype, generator=stream(0, "x"))[:, 2:-1]
    assert torch.equal(turned(x).view(columns, rows), x.T)
    assert torch.equal(to_rows(turned(x), (rows, columns)), x)
