"""``python -m benchmarks [--only NAME ...] [--smoke] [--out FOLDER]``: measure, show a table, write JSON."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.result import RESULTS, THREADS

# Before torch is imported: its thread pools read these once.
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(THREADS)


def main() -> None:
    import torch

    from benchmarks import (
        engine_before,
        engine_bytes,
        engine_cover,
        engine_growth,
        engine_memory,
        engine_rows,
        hand_over,
        hessian,
        import_time,
        initialise,
        mask_update,
        masked_adamw,
        masked_step,
        peers,
        text_phases,
    )
    from benchmarks.command import measure

    torch.set_num_threads(THREADS)
    modules = (masked_step, masked_adamw, mask_update, initialise, import_time)
    engine = (engine_rows, engine_before, engine_cover, engine_bytes, engine_memory, engine_growth)
    several = (*engine, peers, hand_over, hessian, text_phases)
    every = [*(module.BENCHMARK for module in modules), *(found for module in several for found in module.BENCHMARKS)]
    benchmarks = {benchmark.name: benchmark for benchmark in every}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=benchmarks, nargs="+", metavar="NAME", help=", ".join(benchmarks))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, nothing written, no time judged")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for one JSON file per benchmark")
    arguments = parser.parse_args()

    chosen = [benchmark for name, benchmark in benchmarks.items() if not arguments.only or name in arguments.only]
    only = ["--only", *arguments.only] if arguments.only else []  # where the files go is no part of what they say
    out = None if arguments.smoke else arguments.out
    measure(chosen, smoke=arguments.smoke, out=out, command=" ".join(["python -m benchmarks", *only]))


if __name__ == "__main__":
    main()
