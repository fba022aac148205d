"""How much of a volume is read: more is refused before it is unfolded."""

import math

# 2,000 slices of 1,024 x 1,024 pixels of 16 bits.
MAX_BYTES = 4 * 2**30


def check_volume(shape: tuple[int, ...], item_bytes: int) -> None:
    """Raises ValueError if a volume has no voxels, or too many."""
    text = " x ".join(map(str, shape))
    if not shape or min(shape) < 1:
        raise ValueError(f"its header says that it has {text or 'no'} voxels")
    num_bytes = math.prod(shape) * item_bytes
    if num_bytes > MAX_BYTES:
        raise ValueError(
            f"its {text} voxels take {num_bytes / 2**30:.1f} GiB, more than "
            f"the {MAX_BYTES / 2**30:.0f} GiB that are accepted; split it"
        )
