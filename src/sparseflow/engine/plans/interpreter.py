"""The interpreter of plans: a table of integers names the kernels to run and their parts of one workspace.

Each operation is a row: its code, then the integer arguments in the order in which the kernel takes them. So a plan
for a new network or new masks is a new table, and compiles nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.additions import add_image, image_sum
from sparseflow.engine.kernels.blocks import block_dots, block_sums, gradients_of_blocks
from sparseflow.engine.kernels.compiling import kernel, part
from sparseflow.engine.kernels.gradients import column_gradients, gated_sums
from sparseflow.engine.kernels.norms import batch_norm, batch_norm_backward
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
from sparseflow.engine.plans.ends import cross_entropy, give, take

Floats = NDArray[Any]
Integers = NDArray[np.int64]
Positions = NDArray[np.int8]
Tables = NDArray[np.int32]

#: Length of a row.
ROW = 28
FORWARD, BLOCK_FORWARD, GRADIENTS, BLOCK_GRADIENTS, WEIGHT_GRADIENT, BLOCK_WEIGHT_GRADIENT = range(6)
BIAS_GRADIENT, GATED_BIAS_GRADIENT = range(6, 8)
MAX_POOL, MAX_POOL_BACKWARD, AVERAGE_POOL, AVERAGE_POOL_BACKWARD = range(8, 12)
RELU, RELU_BACKWARD, RELU_GATE, SUM, ADD, ZERO = range(12, 18)
NORM, NORM_BACKWARD = range(18, 20)
TAKE, GIVE, CROSS_ENTROPY = range(20, 23)

_MINUS_INFINITY = -np.inf


@part
def _range_of(count: int, share: int, shares: int) -> tuple[int, int]:
    return count * share // shares, count * (share + 1) // shares


@part
def _begins_of(column: int, starts: Tables, columns: Tables) -> Tables:
    """In each row of blocks, the first with this column or a later one; columns ascend in a row."""
    begins = np.empty(starts.shape[0] - 1, np.int32)
    for o in range(begins.shape[0]):
        begins[o] = starts[o] + np.searchsorted(columns[starts[o] : starts[o + 1]], column)
    return begins


@part
def _product(
    o: Integers, x: Floats, tables: Tables, values: Floats, gradient: Floats, share: int, shares: int
) -> None:  # fmt: skip
    """An operation with weights or biases."""
    code = o[0]
    if code == FORWARD:
        first, last = _range_of(o[11], share, shares)
        floor = 0.0 if o[20] == 1 else _MINUS_INFINITY
        weighted_sums(
            tables[o[1] :], tables[o[2] :], tables[o[3] :], values[o[4] :], values[o[5] : o[5] + o[6]],
            x, o[7], o[8], x, o[9], o[10], first, last,
            o[12], o[13], o[14], o[15], o[16], o[17], o[18], o[19] == 1, floor,
        )  # fmt: skip
    elif code == BLOCK_FORWARD:
        first, last = _range_of(o[10], share, shares)
        floor = 0.0 if o[18] == 1 else _MINUS_INFINITY
        block_sums(
            tables[o[1] :], tables[o[2] :], values[o[3] :], values[o[4] : o[4] + o[5]],
            x, o[6], o[7], x, o[8], o[9], first, last, o[11], o[12], o[13], o[14], o[15], o[16], o[17], floor,
        )  # fmt: skip
    elif code == GRADIENTS:
        first, last = _range_of(o[12], share, shares)
        column_gradients(
            tables[o[1] :], tables[o[2] :], tables[o[3] :], tables[o[4] :], values[o[5] :],
            x, o[6], o[7], x, o[8], o[9], x, o[10], o[11], gradient[o[5] :], first, last,
            o[13], o[14], o[15], o[16], o[17], o[18], o[19], o[20], o[21], o[22] == 1, True,
        )  # fmt: skip
    elif code == BLOCK_GRADIENTS:
        starts, columns = tables[o[1] : o[1] + o[10] + 1], tables[o[2] :]
        begins, ends = starts[:-1], starts[1:]
        if shares > 1:
            # Rows of blocks add to the same gradients of inputs, so each thread has channels of its own.
            first, last = _range_of(o[21], share, shares)
            begins = _begins_of(first * o[20], starts, columns)
            ends = _begins_of(last * o[20], starts, columns)
        gradients_of_blocks(
            starts, begins, ends, columns, tables[o[3] :], values[o[4] :], x, o[5], o[6], x, o[7], x, o[8], o[9],
            gradient[o[4] :], np.int64(0), o[10], o[11], o[12], o[13], o[14], o[15], o[16], o[17], o[18], o[19], True,
        )  # fmt: skip
    elif code == WEIGHT_GRADIENT:
        first, last = _range_of(o[9], share, shares)
        sampled_dots(
            tables[o[1] :], tables[o[2] :], tables[o[3] :], x, o[4], o[5], x, o[6], o[7], gradient[o[8] :],
            first, last, o[10], o[11], o[12], o[13], o[14], o[15], o[16], o[17],
        )  # fmt: skip
    elif code == BLOCK_WEIGHT_GRADIENT:
        first, last = _range_of(o[8], share, shares)
        block_dots(
            tables[o[1] :], tables[o[2] :], x, o[3], o[4], x, o[5], o[6], gradient[o[7] :],
            first, last, o[9], o[10], o[11], o[12], o[13], o[14], o[15], True,
        )  # fmt: skip
    elif code == BIAS_GRADIENT:
        first, last = _range_of(o[4], share, shares)
        row_sums(x, o[1], o[2], gradient[o[3] :], first, last, o[5], o[6], o[7], o[8], o[9])
    else:
        first, last = _range_of(o[8], share, shares)
        gated_sums(x, o[1], o[2], o[3], x, o[4], o[5], o[6], gradient[o[7] :], first, last, o[9], o[10])


@part
def _pool(o: Integers, x: Floats, where: Positions, share: int, shares: int) -> None:
    code = o[0]
    if code == MAX_POOL:
        first, last = _range_of(o[10], share, shares)
        floor = 0.0 if o[22] == 1 else _MINUS_INFINITY
        max_pool(
            x, o[1], o[2], o[3], o[4], o[5], x, o[6], o[7], o[8], where, o[9], first, last, o[11], o[12],
            o[13], o[14], o[15], o[16], o[17], o[18], o[19], o[20], o[21], floor,
        )  # fmt: skip
    elif code == MAX_POOL_BACKWARD:
        first, last = _range_of(o[10], share, shares)
        max_pool_backward(
            x, o[1], o[2], o[3], where, o[4], x, o[5], o[6], o[7], o[8], o[9], first, last, o[11], o[12],
            o[13], o[14], o[15], o[16], o[17], o[18], o[19], o[20], o[21],
        )  # fmt: skip
    elif code == AVERAGE_POOL:
        first, last = _range_of(o[9], share, shares)
        average_pool(
            x, o[1], o[2], o[3], o[4], o[5], x, o[6], o[7], o[8], first, last, o[10], o[11],
            o[12], o[13], o[14], o[15], o[16], o[17], o[18], o[19],
        )  # fmt: skip
    else:
        first, last = _range_of(o[9], share, shares)
        average_pool_backward(
            x, o[1], o[2], o[3], x, o[4], o[5], o[6], o[7], o[8], first, last, o[10], o[11],
            o[12], o[13], o[14], o[15], o[16], o[17], o[18], o[19],
        )  # fmt: skip


@part
def _number_by_number(o: Integers, x: Floats, share: int, shares: int) -> None:
    """An operation that has nothing to do with neighbours."""
    code = o[0]
    if code == RELU:
        first, last = _range_of(o[7], share, shares)
        relu(x, o[1], o[2], o[3], x, o[4], o[5], o[6], first, last, o[8], o[9])
    elif code == RELU_BACKWARD:
        first, last = _range_of(o[10], share, shares)
        relu_backward(x, o[1], o[2], o[3], x, o[4], o[5], o[6], x, o[7], o[8], o[9], first, last, o[11], o[12])
    elif code == RELU_GATE:
        first, last = _range_of(o[7], share, shares)
        relu_gate(x, o[1], o[2], o[3], x, o[4], o[5], o[6], first, last, o[8], o[9])
    elif code == SUM:
        first, last = _range_of(o[10], share, shares)
        image_sum(
            x, o[1], o[2], o[3], x, o[4], o[5], o[6], x, o[7], o[8], o[9], first, last, o[11], o[12], o[13] == 1
        )  # fmt: skip
    elif code == ADD:
        first, last = _range_of(o[7], share, shares)
        add_image(x, o[1], o[2], o[3], x, o[4], o[5], o[6], first, last, o[8], o[9])
    else:
        first, last = _range_of(o[2], share, shares)
        x[o[1] + first : o[1] + last] = 0


@part
def _norm(
    o: Integers, x: Floats, values: Floats, gradient: Floats, numbers: NDArray[np.float64], share: int, shares: int
) -> None:  # fmt: skip
    # Values, weights, biases, numbers, channels.
    k = 13 if o[0] == NORM else 21
    b, c = o[k] + o[k + 1], o[k + 4]
    weight, bias = values[o[k] : b], values[b : b + o[k + 2]]
    epsilon = numbers[o[k + 3]]
    first, last = _range_of(c, share, shares)
    mean, variance = numbers[o[k + 3] + 1 :], numbers[o[k + 3] + 1 + c :]
    if o[0] == NORM:
        batch_norm(
            x, o[1], o[2], o[3], x, o[4], o[5], o[6], o[7] == 1, x, o[8], o[9], o[10], o[11], o[12],
            weight, bias, epsilon, mean, variance, o[18] == 1, o[19] == 1, first, last,
        )  # fmt: skip
    else:
        batch_norm_backward(
            x, o[1], o[2], o[3], x, o[4], o[5], o[6], x, o[7], o[8], o[9], o[10] == 1,
            x, o[11], o[12], o[13], o[14] == 1, x, o[15], o[16], o[17], o[18] == 1, o[19], o[20],
            weight, bias, epsilon, mean, variance, o[26] == 1, o[27] == 1,
            gradient[o[k] : b], gradient[b : b + o[k + 2]], first, last,
        )  # fmt: skip


@kernel
def run(
    operations: NDArray[np.int64], x: Floats, where: Positions, tables: Tables, values: Floats, gradient: Floats,
    numbers: NDArray[np.float64], given: Floats, labels: Integers, chosen: Integers, first: int, scale: float,
    out: Floats, total: int, given_inner: bool, out_inner: bool, share: int, shares: int,
) -> float:  # fmt: skip
    """Run the table, or a part of it, on a slice of a batch.

    Args:
        operations: ``(operations, ROW)``.
        x: The workspace: activations and their gradients; the borders of activations are zero.
        where: Room for the positions of maxima.
        tables: All begins, ends, columns and orders.
        values: Active weights and biases.
        gradient: As ``values``; added to.
        numbers: Of norms, see :class:`sparseflow.engine.plans.statistics.Statistics`; written by those that measure.
        given: What ``TAKE`` reads, flat: ``(examples, numbers)``, or ``(numbers, total)`` where ``given_inner``.
        labels: ``(examples,)``.
        chosen: The examples of the batch, checked.
        first: Begin of the slice in ``chosen``.
        scale: Factor of the gradient: one over the examples of the whole batch.
        out: What ``GIVE`` writes, flat: ``(total, numbers)``, or ``(numbers, total)`` where ``out_inner``.
        total: Examples of the whole batch.
        share, shares: Which part of each operation to do, and of how many: outputs, inputs or channels are divided, so
            the bits are the same. Threads that do one each must wait for each other after every operation. Part 0 does
            what is not divided.

    Returns: the sum of the examples' losses.
    """
    loss = 0.0
    for k in range(operations.shape[0]):
        o = operations[k]
        code = o[0]
        if code <= GATED_BIAS_GRADIENT:
            _product(o, x, tables, values, gradient, share, shares)
        elif code <= AVERAGE_POOL_BACKWARD:
            _pool(o, x, where, share, shares)
        elif code <= ZERO:
            _number_by_number(o, x, share, shares)
        elif code <= NORM_BACKWARD:
            _norm(o, x, values, gradient, numbers, share, shares)
        elif share == 0:
            batch = o[1]
            if code == TAKE:
                take(given, first, total, chosen, given_inner, x, o[2], o[3], o[4], o[5], o[6], o[7], batch)
            elif code == GIVE:
                give(x, o[2], o[3], o[4], o[5], o[6], o[7], batch, out, first, total, out_inner)
            else:
                loss += cross_entropy(x, o[2], o[3], batch, labels, chosen, first, o[4], scale)
    return loss
