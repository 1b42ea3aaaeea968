"""Work handed to other threads from within compiled code: through Python that costs more than many a layer."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

from llvmlite import ir
from numba import types

from sparseflow.engine.kernels.vectors import I32, ONE, ZERO, cgutils, i64, intrinsic

_POINTER = ir.IntType(8).as_pointer()
#: What OpenMP's threads call, and how GNU's library is told to: the function, its data, threads, flags.
_BODY = ir.FunctionType(ir.VoidType(), [_POINTER])
_PARALLEL = ir.FunctionType(ir.VoidType(), [_BODY.as_pointer(), _POINTER, I32, I32])


@intrinsic
def share(typingctx: Any, team: Any, threads: Any, bounds: Any, function: Any, arguments: Any) -> Any:
    """Call ``function`` once for each range ``[bounds[i], bounds[i + 1])``, on several threads at the same time.

    A thread that is done takes the next range, so there may be more ranges than threads, or fewer threads than asked
    for. An exception is raised when all are done.

    Args:
        team: The address of ``GOMP_parallel``, or 0 for the calling thread alone.
        threads: How many, the calling one included.
        bounds: int64 ``(ranges + 1,)``.
        function: A kernel with parameters ``first`` and ``last``: a range.
        arguments: The tuple of its other arguments, in their order.
    """
    names = list(inspect.signature(function.dispatcher.py_func).parameters)
    kinds = list(arguments.types)
    for name in sorted(("first", "last"), key=names.index):
        kinds.insert(names.index(name), types.int64)
    call = function.get_call_type(typingctx, tuple(kinds), {})
    signature = types.void(team, threads, bounds, function, arguments)

    def codegen(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        team, threads, ranges, _, packed = given
        edges = context.make_array(bounds)(context, builder, ranges)
        count = builder.sub(builder.extract_value(edges.shape, 0), ONE)
        numbers = cgutils.unpack_tuple(builder, packed, len(arguments.types))
        # The next range, the error of the last call that failed, then what is only read.
        exception = context.call_conv._get_excinfo_argument(builder.function).type.pointee
        fields = [ZERO, ir.Constant(I32, 0), ir.Constant(exception, None), count, edges.data, *numbers]
        shared = cgutils.alloca_once(builder, ir.LiteralStructType([field.type for field in fields]))
        for place, field in enumerate(fields):
            builder.store(field, cgutils.gep_inbounds(builder, shared, 0, place))
        body = _body(context, builder, shared.type, names, function.dispatcher.overloads[call.args])
        pointer = builder.bitcast(shared, _POINTER)
        alone = builder.or_(builder.icmp_signed("==", team, i64(0)), builder.icmp_signed("<", threads, i64(2)))
        with builder.if_else(alone) as (here, there):
            with here:
                builder.call(body, [pointer])
            with there:
                parallel = builder.inttoptr(team, _PARALLEL.as_pointer())
                builder.call(parallel, [body, pointer, builder.trunc(threads, I32), ir.Constant(I32, 0)])
        code, raised = (builder.load(cgutils.gep_inbounds(builder, shared, 0, place)) for place in (1, 2))
        with cgutils.if_unlikely(builder, cgutils.is_not_null(builder, code)):
            context.call_conv.return_status_propagate(builder, SimpleNamespace(code=code, excinfoptr=raised))
        return context.get_dummy_value()

    return signature, codegen


def _body(context: Any, outer: Any, kind: Any, names: list[str], compiled: Any) -> Any:
    """The function that a thread runs: ranges one after the other, until there are no more."""
    module = outer.module
    body = ir.Function(module, _BODY, module.get_unique_name(f"{outer.function.name}.share"))
    body.linkage = "internal"
    builder = ir.IRBuilder(body.append_basic_block("entry"))
    shared = builder.bitcast(body.args[0], kind)
    field = [cgutils.gep_inbounds(builder, shared, 0, place) for place in range(len(kind.pointee.elements))]
    count, edges, *numbers = (builder.load(pointer) for pointer in field[3:])
    head, work, done = (body.append_basic_block(name) for name in ("next", "work", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    number = builder.atomic_rmw("add", field[0], ONE, "seq_cst")
    builder.cbranch(builder.icmp_signed("<", number, count), work, done)
    builder.position_at_end(work)
    ends = {
        "first": builder.load(builder.gep(edges, [number])),
        "last": builder.load(builder.gep(edges, [builder.add(number, ONE)])),
    }
    for name in sorted(ends, key=names.index):
        numbers.insert(names.index(name), ends[name])
    context.active_code_library.add_linking_library(compiled.library)
    callee = context.declare_function(module, compiled.fndesc)
    status, _ = context.call_conv.call_function(
        builder, callee, compiled.fndesc.restype, compiled.fndesc.argtypes, numbers
    )
    with cgutils.if_unlikely(builder, status.is_error):
        builder.store(status.code, field[1])
        builder.store(status.excinfoptr, field[2])
    builder.branch(head)
    builder.position_at_end(done)
    builder.ret_void()
    return body
