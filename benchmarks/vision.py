"""``python -m benchmarks.vision --data FOLDER [--only NAME ...] [--quick] [--out FOLDER]``: time image training.

``--data`` holds at least a few hundred images, in a form that ``sparseflow.data.open_images`` reads, in a split called
validation: any JPEGs of ImageNet.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.result import RESULTS, THREADS

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(THREADS)


def main() -> None:
    import torch

    from benchmarks import vision_compiled, vision_input, vision_memory, vision_ranks
    from benchmarks.command import measure

    torch.set_num_threads(THREADS)
    makers = {
        "vision_ranks": vision_ranks.benchmark,
        "vision_compiled": vision_compiled.benchmark,
        "vision_input": vision_input.benchmark,
        "vision_memory": vision_memory.benchmark,
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vision", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="images")
    parser.add_argument("--only", choices=makers, nargs="+", metavar="NAME", help=", ".join(makers))
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is written without --out")
    parser.add_argument("--out", type=Path, help=f"folder for one JSON file per benchmark; default {RESULTS.name}/")
    arguments = parser.parse_args()

    names = arguments.only or list(makers)
    out = arguments.out or (None if arguments.quick else RESULTS)
    flags = " --quick" if arguments.quick else ""
    command = f"python -m benchmarks.vision --data FOLDER --only {' '.join(names)}{flags}"
    measure([makers[name](arguments.data) for name in names], smoke=arguments.quick, out=out, command=command)


if __name__ == "__main__":
    main()
