r"""Error bars, from a run and a companion that takes every step of it as two halves.

With e the error of the run and e′ that of the companion, what is seen is d = e − e′. The
companion of a method of order p has e′ ≈ 2^{−p} e, so that 2|d| bounds |e| from order 1 on,
except where e and e′ pass through zero, each at its own time: there d vanishes and e does not.
What is left there is e′, which is a small part of what the error is before and after: a quarter
of the envelope of |d|, the smaller of its maxima on either side, is added. The envelope fills
the dips of |d| and is |d| itself where the error only grows or only dies out. What comes after
the end of a run is not known: its last quarter counts as one.
"""

import numpy as np

#: Share of the envelope that is left of the error where the difference vanishes.
LEFT = 0.25

#: Share of the time of a run, up to its end, in which a dip is not told from an end.
LATE = 0.25


def error_bar(t: np.ndarray, main: np.ndarray, companion: np.ndarray) -> np.ndarray:
    """Error bar of `main`, recorded at the times `t` along the first axis, by its companion.

    The largest of a step and the two beside it.
    """
    bar = spread(t, main, companion)
    wide = np.concatenate([bar[:1], bar, bar[-1:]])
    return np.maximum.reduce([wide[:-2], bar, wide[2:]])


def spread(t: np.ndarray, main: np.ndarray, companion: np.ndarray) -> np.ndarray:
    """The bar of every step by itself."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.where(main == companion, 0.0, main - companion))
    return 2.0 * difference + LEFT * _envelope(t, difference)


def _envelope(t: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The smaller of the maxima before and after; what is no number is left out."""
    before = np.fmax.accumulate(size, axis=0)
    after = np.fmax.accumulate(size[::-1], axis=0)[::-1]
    late = int(np.searchsorted(t, t[-1] - LATE * (t[-1] - t[0])))
    after[late:] = after[late]
    return np.fmin(before, after)
