"""What a script of figures does, whatever environment it runs in."""

import sys
from collections.abc import Callable


def take(measure: Callable[[], float]) -> None:
    """Prints a figure for every line of standard input, and nothing else."""
    output, sys.stdout = sys.stdout, sys.stderr
    for _ in sys.stdin:
        print(measure(), file=output, flush=True)
