"""Where values are far from the rolling median of those around them (pure)."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NARROWEST = 9
_NORMAL = 1.4826  # a standard deviation in median absolute deviations
_AT_ONCE = 50_000  # windows in memory


def far_from_median(values: Floats, window: int, spreads: float, at_least: float) -> tuple[Ints, Floats]:
    """Rows whose value is far from the median of the ``window`` around, and by which share of it.

    The spread is the median absolute deviation, that of the window or the typical one of all, whichever is
    more. Fewer values than a window are one window; fewer than NARROWEST tell nothing.

    Args:
        values: above 0.
        spreads: how many robust standard deviations count, ``at_least``: and which share of the median.
    """
    window = min(window, len(values))
    if window < NARROWEST:
        return np.empty(0, np.int64), np.empty(0)
    step = window // 3
    level, spread = _in_steps(values, step)
    typical = float(np.median(spread))
    block = np.minimum(np.arange(len(values)) // step, len(level) - 1)
    limit = np.maximum(spreads * _NORMAL * np.maximum(spread, typical), at_least * level)
    # The steps tell where to look; the window around the value itself decides.
    candidates = np.flatnonzero(np.abs(values - level[block]) > limit[block])
    windows: npt.NDArray[Any] = np.lib.stride_tricks.sliding_window_view(values, window)
    kept: list[Ints] = [np.empty(0, np.int64)]
    shares: list[Floats] = [np.empty(0)]
    for at in range(0, len(candidates), _AT_ONCE):
        rows = candidates[at : at + _AT_ONCE]
        around = windows[np.clip(rows - window // 2, 0, len(values) - window)]
        middle = np.median(around, axis=1)
        own = np.maximum(np.median(np.abs(around - middle[:, None]), axis=1), typical)
        far = np.abs(values[rows] - middle) > np.maximum(spreads * _NORMAL * own, at_least * middle)
        kept.append(rows[far])
        shares.append(values[rows[far]] / middle[far] - 1)
    return np.concatenate(kept), np.concatenate(shares)


def _in_steps(values: Floats, step: int) -> tuple[Floats, Floats]:
    """Median and median absolute deviation of three steps, for the middle one of them; a row a step."""
    blocks = values[: len(values) // step * step].reshape(-1, step)
    around = np.concatenate([blocks[:-2], blocks[1:-1], blocks[2:]], axis=1)
    level = np.median(around, axis=1)
    spread = np.median(np.abs(around - level[:, None]), axis=1)
    return np.pad(level, 1, "edge"), np.pad(spread, 1, "edge")
