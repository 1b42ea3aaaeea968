"""The interpreter of plans: a table of integers names the kernels to run and their parts of one workspace.

Each operation is a row: its code, then the integer arguments in the order in which the kernel takes them. So a plan
for a new network or new masks is a new table, and compiles nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel
from sparseflow.engine.kernels.pooling import (
    average_pool,
    average_pool_backward,
    max_pool,
    max_pool_backward,
    relu,
    relu_backward,
    relu_gate,
)
from sparseflow.engine.kernels.sums import row_sums, sampled_dots, weighted_sums
from sparseflow.engine.plans.ends import cross_entropy, give, take, take_images

Floats = NDArray[Any]
Integers = NDArray[np.int64]

#: Length of a row.
ROW = 24
FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, BIAS_GRADIENT = 0, 1, 2, 3
MAX_POOL, MAX_POOL_BACKWARD, AVERAGE_POOL, AVERAGE_POOL_BACKWARD, RELU, RELU_BACKWARD = 4, 5, 6, 7, 8, 9
TAKE_IMAGES, CROSS_ENTROPY, GIVE_LOGITS, TAKE, GIVE, RELU_GATE = 10, 11, 12, 13, 14, 15

_MINUS_INFINITY = -np.inf


@kernel
def run(
    operations: NDArray[np.int64], x: Floats, where: NDArray[np.int8], tables: NDArray[np.int32],
    order: NDArray[np.int32], values: Floats, transposed: Floats, gradient: Floats, images: Floats, labels: Integers,
    chosen: Integers, first: int, slices: int, scale: float, logits: Floats,
) -> float:  # fmt: skip
    """Run the table on ``slices`` slices of a batch, one after the other.

    Args:
        operations: ``(operations, ROW)``.
        x: The workspace: activations and their gradients; its borders are zero.
        where: Room for the positions of maxima.
        tables: All begins, ends and columns.
        values: Active weights and biases.
        order, transposed: Places of the values that the input gradients take, in their order, and room for the values.
        gradient: As ``values``; added to.
        images: ``(examples, numbers)``, flat; for ``TAKE`` the whole batch, innermost.
        labels: ``(examples,)``.
        chosen: The examples of the batch, checked.
        first: Begin of the first slice in ``chosen``.
        scale: Factor of the gradient: one over the examples of the whole batch.
        logits: ``(batch, classes)``, flat; written by ``GIVE_LOGITS``. For ``GIVE`` the batch is innermost.

    Returns: the sum of the examples' losses.
    """
    for k in range(order.shape[0]):
        transposed[k] = values[order[k]]
    total = 0.0
    begin = first
    zero = np.int64(0)  # a literal 0 would have all kernels compiled once more, for it alone
    for _ in range(slices):
        batch = 0
        for k in range(operations.shape[0]):
            o = operations[k]
            code = o[0]
            if code <= INPUT_GRADIENT:
                floor = 0.0 if o[20] == 1 else _MINUS_INFINITY
                weighted_sums(
                    tables[o[1] :], tables[o[2] :], tables[o[3] :], (values if code == FORWARD else transposed)[o[4] :],
                    values[o[5] : o[5] + o[6]], x, o[7], o[8], x, o[9], o[10], zero, o[11],
                    o[12], o[13], o[14], o[15], o[16], o[17], o[18], o[19] == 1, floor,
                )  # fmt: skip
            elif code == WEIGHT_GRADIENT:
                sampled_dots(
                    tables[o[1] :], tables[o[2] :], tables[o[3] :], x, o[4], o[5], x, o[6], o[7], gradient[o[8] :],
                    zero, o[9], o[10], o[11], o[12], o[13], o[14], o[15], o[16], o[17],
                )  # fmt: skip
            elif code == BIAS_GRADIENT:
                row_sums(x, o[1], o[2], gradient[o[3] :], zero, o[4], o[5], o[6], o[7], o[8], o[9])
            elif code == MAX_POOL:
                floor = 0.0 if o[23] == 1 else _MINUS_INFINITY
                max_pool(
                    x, o[1], o[2], o[3], o[4], o[5], x, o[6], o[7], o[8], where, o[9], o[10], o[11], o[12], o[13],
                    o[14], o[15], o[16], o[17], o[18], o[19], o[20], o[21], o[22], floor,
                )  # fmt: skip
            elif code == MAX_POOL_BACKWARD:
                max_pool_backward(
                    x, o[1], o[2], o[3], where, o[4], x, o[5], o[6], o[7], o[8], o[9], o[10], o[11], o[12], o[13],
                    o[14], o[15], o[16], o[17], o[18], o[19], o[20], o[21], o[22],
                )  # fmt: skip
            elif code == AVERAGE_POOL:
                average_pool(
                    x, o[1], o[2], o[3], o[4], o[5], x, o[6], o[7], o[8], o[9], o[10], o[11], o[12],
                    o[13], o[14], o[15], o[16], o[17], o[18], o[19], o[20],
                )  # fmt: skip
            elif code == AVERAGE_POOL_BACKWARD:
                average_pool_backward(
                    x, o[1], o[2], o[3], x, o[4], o[5], o[6], o[7], o[8], o[9], o[10], o[11], o[12],
                    o[13], o[14], o[15], o[16], o[17], o[18], o[19], o[20],
                )  # fmt: skip
            elif code == RELU:
                relu(x, o[1], o[2], o[3], x, o[4], o[5], o[6], zero, o[7], o[8], o[9])
            elif code == RELU_BACKWARD:
                relu_backward(
                    x, o[1], o[2], o[3], x, o[4], o[5], o[6], x, o[7], o[8], o[9], zero, o[10], o[11], o[12]
                )  # fmt: skip
            elif code == RELU_GATE:
                relu_gate(x, o[1], o[2], o[3], x, o[4], o[5], o[6], zero, o[7], o[8], o[9])
            elif code == TAKE_IMAGES:
                batch = o[8]
                take_images(images, chosen, begin, o[1], x, o[2], o[3], o[4], o[5], o[6], o[7], batch)
            elif code == CROSS_ENTROPY:
                total += cross_entropy(x, o[1], o[2], batch, labels, chosen, begin, o[3], scale)
            elif code == TAKE:
                batch = o[7]
                take(images, begin, len(chosen), x, o[1], o[2], o[3], o[4], o[5], o[6], batch)
            elif code == GIVE:
                give(x, o[1], o[2], o[3], o[4], o[5], o[6], batch, logits, begin, len(chosen))
            else:
                for n in range(batch):
                    for c in range(o[2]):
                        logits[(begin + n) * o[2] + c] = x[o[1] + c * batch + n]
        begin += batch
    return total
