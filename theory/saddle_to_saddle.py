"""Saddle path of a diagonal linear network on a quadratic loss.

Pesme & Flammarion 2023 (2304.00488), Algorithm 1: the dual variable q moves with the
gradient inside [−1, 1] and each saddle is a sign-constrained least-squares fit.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import ArrayLike
from scipy import optimize

from gflow.internal import Fingerprint, least_squares, probe_weights, summary

from ._prediction import Prediction
from ._stage import Level, Stage, Start

__all__ = ["SOURCE", "VALIDITY", "predict", "time_average"]


def __dir__() -> list[str]:
    return __all__


SOURCE = "Pesme & Flammarion 2023 (2304.00488), Algorithm 1"
VALIDITY = "β = u⊙v, squared loss, α → 0, unique winners (features in general position)"
_FLOOR = 1e-10
_TIE = 1e-9


def predict(X: ArrayLike, y: ArrayLike, reduction: str = "half_mean") -> Prediction:
    """Saddles and times T_k of β = u⊙v for the squared loss of Xβ against y.

    **Arguments:** `X`: (n, p), `y`: (n,), `reduction` as in
    `gflow.objectives.SquaredLoss`; it sets the clock (the loss of "half_mean" is slower
    by n than "half_sum"). Start: |u ± v| of order α.

    **Returns:** a `Prediction` whose `.value` is the weight vector; offsets are NaN,
    since they depend on the connecting orbits (see `theory.gradual_rank`).

    **Raises:** ValueError for shapes, non-finite data, an unknown reduction, a tie.
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    if X.ndim != 2 or y.shape != X.shape[:1] or X.size == 0:
        raise ValueError(
            f"predict(X, y) needs X of shape (n, p) and y of shape (n,); got {X.shape} and "
            f"{y.shape}."
        )
    if not (np.all(np.isfinite(X)) and np.all(np.isfinite(y))):
        raise ValueError("X or y contains NaN or infinite entries.")
    factors = {"half_sum": 0.5, "sum": 1.0, "half_mean": 0.5 / len(y), "mean": 1.0 / len(y)}
    if reduction not in factors:
        raise ValueError(f"reduction = {reduction!r}: choose one of {sorted(factors)}.")
    factor = factors[reduction]

    def loss(beta: np.ndarray) -> float:
        return factor * float(np.sum((X @ beta - y) ** 2))

    def force(beta: np.ndarray) -> np.ndarray:
        return -2.0 * factor * (X.T @ (X @ beta - y))

    beta, q, tau = np.zeros(X.shape[1]), np.zeros(X.shape[1]), 0.0
    hessian, exponent = 2 * factor * X.T @ X, math.inf
    initial = float(np.max(np.abs(force(beta)), initial=0.0))
    stages: list[Stage] = []
    while True:
        g = force(beta)
        moving = (beta == 0) & (np.abs(g) > _FLOOR * initial)
        if not moving.any():
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            wait = np.where(moving, (1.0 - np.sign(g) * q) / np.abs(g), np.inf)
        order = np.argsort(wait, kind="stable")
        winner = int(order[0])
        margin = float(wait[order[1]] - wait[winner]) if len(order) > 1 else math.inf
        if margin <= _TIE * wait[winner]:
            raise ValueError(
                f"An accidental tie: features {winner} and {int(order[1])} would switch at the "
                "same τ, and the limit does not decide which comes first. Perturb the data."
            )
        q = np.where(moving, q + g * wait[winner], q)
        tau += float(wait[winner])
        q[winner] = np.sign(g[winner])
        before = beta
        # what has not relaxed on the plateau, and the dormant weights there are at its end
        others = (beta == 0) & (np.arange(len(q)) != winner)
        exponent = min(
            exponent, *(2 - 2 * np.abs(q[others])), _relaxation(hessian, beta, wait[winner])
        )
        beta = _signed_fit(X, y, before, winner, q)
        stage = _stage(tau, before, beta, winner, margin, loss, hessian, g)
        stages.append(dataclasses.replace(stage, exponent=float(exponent)))
    start = np.zeros(X.shape[1])
    ended = "complete: no feature correlates with the residual"
    probes = probe_weights({"weight": beta.shape})["weight"]
    data = summary([loss(w) for w in probes], {"weight": [force(w) for w in probes]})
    origin = Fingerprint(None, data, {"weight": [0.0] * 6}, {})
    return Prediction(
        Start(0.0, start, loss(start), 0), stages, SOURCE, VALIDITY, ended, origin=lambda: origin
    )


def _relaxation(hessian: np.ndarray, beta: np.ndarray, wait: float) -> float:
    """Exponent of α to which the slowest active weight relaxes on a plateau of length `wait`.

    δ' = −2|β|Hδ on the support, so e^{−μ·wait·Λ} with μ the smallest eigenvalue.
    """
    support = np.flatnonzero(beta)
    if not support.size:
        return math.inf
    root = np.sqrt(np.abs(beta[support]))
    block = 2.0 * root[:, None] * hessian[np.ix_(support, support)] * root
    return float(np.min(np.linalg.eigvalsh(block)) * wait)


def _signed_fit(X, y, before, winner, q) -> np.ndarray:
    """min ‖Xβ − y‖ over the support and the winner, each keeping the sign of its q."""
    support = np.flatnonzero((before != 0) | (np.arange(len(q)) == winner))
    columns = X[:, support] * np.sign(q[support])
    size, _ = optimize.nnls(columns, y)
    # the active-set answer once more by an orthogonal solve on its own support
    kept = size > 0
    size[kept] = least_squares(columns[:, kept], y)
    beta = np.zeros(len(q))
    beta[support] = np.sign(q[support]) * size
    return beta


def _stage(tau, before, beta, winner, margin, loss, hessian, g) -> Stage:
    support = np.flatnonzero(beta)
    block = hessian[np.ix_(support, support)]
    on = np.flatnonzero((beta != 0) & (before == 0))
    off = np.flatnonzero((beta == 0) & (before != 0))
    level = None
    if beta[winner] != 0:
        level = Level(("weight", (winner,)), 0.5 * float(beta[winner]))
    return Stage(
        tau=tau,
        offset=math.nan,
        activated=[("weight", (int(i),)) for i in on],
        deactivated=[("weight", (int(i),)) for i in off],
        value=beta,
        loss=loss(beta),
        rank=int(support.size),
        margin=margin,
        level=level,
        curvature=float(np.min(np.linalg.eigvalsh(block))) if support.size else math.nan,
        rate=float(abs(g[winner])),
    )


def time_average(prediction: Prediction, tau: ArrayLike) -> np.ndarray:
    """(1/τ)∫₀^τ β of the limit path, exactly: shape of `tau` + (p,).

    For the half-sum loss it is the Lasso solution at λ = 1/τ, up to the first
    deactivation and in general not after it. **Source:** Berthier 2025 (2509.18766).
    """
    tau = np.asarray(tau, float)
    if np.any(tau <= 0):
        raise ValueError("The average over [0, τ] needs τ > 0.")
    edges = np.array([0.0, *(s.tau for s in prediction.stages), np.inf])
    values = [prediction.start.value, *(s.value for s in prediction.stages)]
    total = np.zeros((*tau.shape, len(values[0])))
    for start, end, value in zip(edges[:-1], edges[1:], values, strict=True):
        spent = np.clip(tau, start, end) - start
        total += np.maximum(spent, 0.0)[..., None] * value
    return total / tau[..., None]
