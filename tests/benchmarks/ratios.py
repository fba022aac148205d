"""How a benchmark tells how many times as fast as a peer something is."""

import json
import os
from collections.abc import Sequence

import numpy as np

# A file that ratios are added to, a line of JSON each.
FILE = "BENCHMARK_RATIOS"


def tell(what: str, peer: str, ratios: Sequence[float]) -> None:
    """Prints the median and range of ratios, and keeps them for the table.

    Args:
        what: was measured.
        peer: that it was measured beside, in the same rounds.
        ratios: of each round, the peer's time to ours.
    """
    low, ratio, high = min(ratios), float(np.median(ratios)), max(ratios)
    print(
        f"{what}: {ratio:.2f} times as fast as {peer} ({low:.2f} to "
        f"{high:.2f})",
        flush=True,
    )
    if FILE in os.environ:
        row = {"what": what, "peer": peer, "ratio": ratio}
        with open(os.environ[FILE], "a") as file:
            file.write(json.dumps(row | {"low": low, "high": high}) + "\n")
