"""What a script of figures does, whatever environment it runs in."""

import sys
from collections.abc import Callable

# Libraries print what they find, and standard output is for figures.
_output, sys.stdout = sys.stdout, sys.stderr


def take(measure: Callable[[], float]) -> None:
    """Prints that it is ready, then a figure for every line of input."""
    print("ready", file=_output, flush=True)
    for _ in sys.stdin:
        print(measure(), file=_output, flush=True)
