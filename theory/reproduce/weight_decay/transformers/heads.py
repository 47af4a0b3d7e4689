"""What decay does to a head: rank, imbalance and gap, averaged over heads and seeds."""

import math

import numpy as np
from scipy.stats import t as student_t

from gflow import models
from theory import weight_decay as theory

from .problem import pairs

#: Singular values of W_KᵀW_Q and P W_V above this count. Tokens enter with norm √d, about 6: a
#: smaller one moves a logit by less than 0.1 and the residual stream by less than 0.06.
THRESHOLD = 0.01
PRODUCTS = {"kq": "$W_K^TW_Q$", "vo": "$PW_V$"}


def per_head(stacked: models.Transformer, start: models.Transformer) -> dict[str, np.ndarray]:
    """(members, heads of all layers): rank, and imbalance and gap relative to their start."""
    found: dict[str, np.ndarray] = {}
    for name in PRODUCTS:
        now, then = (
            [
                np.concatenate([np.asarray(pair[i], float) for pair in pairs(m, name)], 1)
                for i in range(2)
            ]
            for m in (stacked, start)
        )
        s = np.linalg.svdvals(now[0] @ now[1].mT)
        found[f"{name} rank"] = np.sum(s > THRESHOLD, axis=-1)
        for what, measure in (("imbalance", imbalance), ("gap", theory.gap)):
            found[f"{name} {what}"] = measure(*now) / measure(*then)
    return found


def imbalance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """‖AᵀA − BᵀB‖ of every head."""
    return np.linalg.norm(left.mT @ left - right.mT @ right, axis=(-2, -1))


def interval(samples: np.ndarray) -> np.ndarray:
    """Mean over the leading axis (seeds) and the ends of a 95 % interval (NaN from one seed)."""
    n, mean = len(samples), np.mean(samples, axis=0)
    if n < 2:
        return np.stack([mean, mean + np.nan, mean + np.nan])
    half = np.std(samples, axis=0, ddof=1) / math.sqrt(n) * student_t.ppf(0.975, n - 1)
    return np.stack([mean, mean - half, mean + half])


def collected(runs: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """`interval` over seeds of every mean over heads; of its logarithm where it spans decades."""
    found = {}
    for name in runs[0]:
        x = np.array([run[name] for run in runs])
        x = x.mean(axis=-1) if x.ndim == 3 else x
        decades = name.endswith(("imbalance", "gap"))
        found[name] = np.exp(interval(np.log(x))) if decades else interval(x)
    return found
