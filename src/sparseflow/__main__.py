"""``sparseflow`` on the command line; everything it does needs the extra ``[lab]``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from sparseflow.cli.main import main as run

        run()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("sparseflow"):
            raise
        package = error.name.partition(".")[0]
        print(
            f'sparseflow: the command line needs {package}; install it with pip install "sparseflow[lab]"',
            file=sys.stderr,
        )
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
