"""``python -m battery [--only NAME ...] [--check] [--jobs N]``: try every optimizer, write the table."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import time
from datetime import UTC, datetime

# Before torch is imported: its thread pools read this once, and what would be compiled for minutes runs as it is.
os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
# The Hugging Face libraries ask their hub for nothing here.
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m battery", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows with one of these in library.name; not written")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if docs/optimizers.md differs")
    parser.add_argument("--jobs", type=int, default=2, help="processes at the same time, default 2")
    arguments = parser.parse_args()

    import torch

    from battery import page
    from battery.children import run
    from battery.clipping import clipping
    from battery.optimizers import every, versions
    from battery.trial import Outcome
    from sparseflow.atomic import write_atomically

    torch.set_num_threads(1)
    try:
        rows = every()
    except ModuleNotFoundError as error:
        sys.exit(
            f"{error}. The battery needs battery/requirements.txt beside requirements.lock; `make battery` does it."
        )
    if arguments.only:
        rows = [row for row in rows if any(part in f"{row.library}.{row.name}" for part in arguments.only)]
    began = time.monotonic()
    done = 0

    def show(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        left = (time.monotonic() - began) / done * (len(rows) - done)
        why = f" ({'; '.join(outcome.why)})" if outcome.why else ""
        name = f"{outcome.library} {outcome.name}"
        print(f"{done}/{len(rows)}, {left:.0f} s left: {name}: {outcome.verdict}{why}", flush=True)

    outcomes = run(rows, jobs=arguments.jobs, each=show)
    print(f"{len(rows)} optimizers in {time.monotonic() - began:.0f} s", flush=True)
    if arguments.only:
        return
    results = {
        "command": "python -m battery",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "clipping": clipping(),
        "rows": [outcome.json() for outcome in outcomes],
    }
    text = page.page(results)
    if not arguments.check:
        write_atomically(page.RESULTS, page.dumped(results).encode())
        write_atomically(page.PAGE, text.encode())
        write_atomically(page.CAVEATS, page.caveats(results).encode())
        return
    committed = page.PAGE.read_text()
    if committed != text:
        lines = difflib.unified_diff(committed.splitlines(), text.splitlines(), "committed", "now", lineterm="", n=0)
        print("\n".join(lines))
        sys.exit("docs/optimizers.md is not what the battery finds; type `make battery`, look at it, and commit it.")
    print("docs/optimizers.md is what the battery finds.")


if __name__ == "__main__":
    main()
