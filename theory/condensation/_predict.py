"""A prediction for a one-layer transformer: its escape from small weights, and its plateau."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree
from scipy import optimize

from gflow import Factored, Passage, Trajectory, observables, stop
from gflow.internal import Objective, elapsed_time, one_thread
from gflow.models import LastTokenTransformer
from gflow.objectives import MarginLoss

from .._closed_form import Curve, Number
from .._prediction import Prediction
from ._blow_up import BlowUpLimit, blow_up_limit
from ._direction import SOURCE, VALIDITY, condensation_direction, key_query_matrix, value_cosines
from ._key_query import key_query_directions, plateau
from ._separability import separability
from ._three_factors import conserved

Times = Float[np.ndarray, " times"]
#: −ℓ'(0) and ℓ''(0) of the losses of the margin.
SLOPE = {"exponential": (1.0, 1.0), "logistic": (0.5, 0.25)}
#: The start is small where its largest outer norm is below this share of the level.
_SMALL = 0.5
#: ‖W_QW_Kᵀ‖ up to which logits are small, and the drift of F that a plateau may have until there.
LOGITS, _DRIFT = 0.05**2, 0.1


class Setting(NamedTuple):
    """Data, weights and names of one model and its loss."""

    x: Float[np.ndarray, "n s d"]
    y: Float[np.ndarray, " n"]
    value: Float[np.ndarray, "d d"]
    inner: Float[np.ndarray, "d h"]
    readout: Float[np.ndarray, " h"]
    query: Float[np.ndarray, "d r"]
    key: Float[np.ndarray, "d r"]
    activation: str
    loss: str

    @property
    def largest(self) -> float:
        """The largest norm of an outer weight."""
        return max(float(np.linalg.norm(w)) for w in (self.value, self.inner, self.readout))

    @property
    def seen(self) -> Float[np.ndarray, "n d"]:
        """What attention makes of every sequence with these keys: its mean if they vanish."""
        scale = 1.0 / math.sqrt(self.x.shape[-1])
        logits = np.einsum("nd,nsd->ns", self.x[:, -1] @ self.query @ self.key.T, self.x) * scale
        weights = np.exp(logits - np.max(logits, axis=1, keepdims=True))
        weights /= np.sum(weights, axis=1, keepdims=True)
        return np.einsum("ns,nsd->nd", weights, self.x)

    @property
    def logits(self) -> float:
        """How large logits can be: ‖W_QW_Kᵀ‖·max‖x‖²/√d."""
        longest = float(np.max(np.sum(self.x**2, axis=-1)))
        return (
            float(np.linalg.norm(self.query @ self.key.T, 2))
            * longest
            / math.sqrt(self.x.shape[-1])
        )


@one_thread
def predict(model: PyTree, objective: Objective, *, level: float | int = 0.1) -> Prediction:
    r"""What a one-layer transformer does from small weights, or on its plateau, without decay.

    **Arguments:** `model`: a `gflow.models.LastTokenTransformer`, key and query a
    `gflow.Factored`, with `activation` tanh or none (z ↦ z). `objective`: a
    `gflow.objectives.MarginLoss` of it. `level`: outer norm w ≪ 1 up to which the escape is
    followed.

    **Returns:** a `Prediction`. From outer weights much smaller than w

    - "escape time": flow time until ‖readout‖ = w,
      t = T*/κ − 1/(κw) + Cw²/2κ with κ = −ℓ'(0)m and C the next order of the loss;
    - "rank of the value weight", its stable rank less 1 at that time, and "direction of the
      value weight", how far the cosines of its columns with v are from `value_cosines`.

    From larger ones, with small W_Q, W_K

    - with no activation, and mean tokens that are not separable, "growth rate on the plateau":
      2σ₁ of F at the minimiser u* of the loss with uniform attention;
    - from outer weights at rest the curve "log of the key-query weight": log of the largest
      singular value of W_QW_Kᵀ by `key_query_directions`, until it is 0.05².

    **Raises:** ValueError for another model or loss, an activation that is neither, mean tokens
    without a direction (see `condensation_direction`), and weights that are neither small nor at
    rest.

    **Regime:** gradient flow (not Adam). **Source:** 2510.06954 (Chen, Luo 2025).

    ```python
    prediction = theory.condensation.predict(model, task.objective)
    print(theory.compare(gflow.simulate(model, task.objective, t1=t1), prediction))
    ```
    """
    here, began = _setting(model, objective), elapsed_time(model)
    parts: list[Curve | Number] = []
    if here.largest < _SMALL * level:
        parts += _escape(here, began, float(level))
    else:
        parts += _growth(here)
        parts += _on_plateau(here, began, needed=not parts)
    return Prediction.of(*parts, made_from=(model, objective))


def _setting(model: PyTree, objective: Objective) -> Setting:
    if not isinstance(model, LastTokenTransformer) or not isinstance(objective, MarginLoss):
        raise ValueError(
            f"{type(model).__name__} with {type(objective).__name__}: this theory is of a "
            "gflow.models.LastTokenTransformer on a gflow.objectives.MarginLoss (labels ±1)."
        )
    if not isinstance(model.kq, Factored):
        raise ValueError(
            f"kq is a {type(model.kq).__name__}: the theory is of W_Q and W_K, the left and right "
            "factor of a gflow.Factored."
        )
    places = np.array([-1.3, -0.2, 0.4, 2.0])
    found = np.asarray(model.activation(jnp.asarray(places)), float)
    names = {"tanh": np.tanh(places), "linear": places}
    activation = next((n for n, z in names.items() if np.allclose(z, found, rtol=1e-12)), None)
    if activation is None:
        raise ValueError(
            "The activation is neither tanh nor z ↦ z, for which the closed forms are written. "
            "theory.condensation.blow_up_time holds for others that are z + O(z²)."
        )
    scale = np.exp(np.asarray(model.kq.log_scale))
    outer = (np.asarray(w.value, float) for w in (model.value, model.inner, model.readout))
    keys = (np.asarray(w, float) * scale for w in (model.kq.left, model.kq.right))
    x, y = np.asarray(objective.inputs, float), np.asarray(objective.labels, float)
    return Setting(x, y, *outer, *keys, activation, objective.loss)


# --- the escape ----------------------------------------------------------------------------


def _escape(here: Setting, began: float, level: float) -> list[Number]:
    seen = here.seen
    v, m = condensation_direction(seen[:, None], here.y)
    start = v @ here.value, here.inner, here.readout
    limit, laws = blow_up_limit(*start), conserved(*start)
    slope, curvature = SLOPE[here.loss]
    rate = slope * m
    # ‖readout‖² = N + D and N = τ⁻² − (D + ḡ)/3 in the time of the reduced flow
    left = (level**2 - laws.difference + (laws.difference + limit.mean) / 3.0) ** -0.5
    later = curvature * float(np.mean((seen @ v) ** 2)) / rate
    order = 0.5 * later * level**2 / rate
    spread = float(np.linalg.norm(laws.left, 2)) / level**2
    attention = here.logits * float(np.max(np.linalg.norm(here.x, axis=-1))) / m
    time = began + (float(limit.time) - left) / rate + order
    slack = (
        order
        + level**3 / rate
        + left * spread**2 / rate
        + attention / (level * rate)
        + limit.time.error / rate
    )
    about: Any = {"source": SOURCE, "validity": VALIDITY}
    return [
        Number("escape time", time, lambda run: _time(run, level), slack,
               "the next orders of the loss in w and of the reduced flow, and how keys move",
               unit="flow time", size=1.0 / (level * rate), **about),
        *_condensed(here, limit, v, left, level, later),
    ]  # fmt: skip


def _condensed(
    here: Setting, limit: BlowUpLimit, v: np.ndarray, left: float, level: float, later: float
) -> list[Number]:
    rest = here.value - np.outer(v, v @ here.value)
    a = limit.left / left
    value = rest + np.outer(v, a)
    rank, cosines = _excess(value), value_cosines(here.value, v, a)
    # the left vector turns at the order w³ of the loss, a by turn·τ² from its limit
    turned = limit.turn * left**2
    still = np.linalg.norm(rest, axis=0)
    off = later * level**3 + turned * float(
        np.max(np.linalg.norm(a) * still**2 / np.hypot(a, still) ** 3)
    )

    def ranks(run: Trajectory) -> tuple[float, float]:
        # singular values are right to some roundings of the largest, of which this has squares
        found, bar = _at_rise(run, level, _excess)
        return found, bar + 100.0 * np.finfo(float).eps * math.sqrt(found)

    def apart(run: Trajectory) -> tuple[float, float]:
        def furthest(w: np.ndarray) -> float:
            found = (v @ w) / np.linalg.norm(w, axis=0)
            return float(np.max(np.abs(found - cosines)))

        found, bar = _at_rise(run, level, furthest)
        return found, bar + 1e-12

    about: Any = {"source": SOURCE, "validity": VALIDITY}
    return [
        Number("rank of the value weight", rank, ranks, rank * (later * level**3 + 4.0 * turned),
               "the order w³ of the loss, and the way of a to its limit", resolves=0.1, **about),
        Number("direction of the value weight", 0.0, apart, off,
               "the order w³ of the loss, and the way of a to its limit", size=1.0, resolves=0.1,
               **about),
    ]  # fmt: skip


def _rise(run: Trajectory, level: float) -> Passage | None:
    """When ‖readout‖ rises to a level, by a simulation or an escape."""
    try:
        return run.crossing(stop.above(observables.norm("readout"), level))
    except ValueError:  # no such leaf, no flow to solve, or a level that is not come to
        return None


def _time(run: Trajectory, level: float) -> tuple[float, float]:
    found = _rise(run, level)
    return (math.nan, math.nan) if found is None else (found.t, found.error)


def _at_rise(
    run: Trajectory, level: float, function: Callable[[np.ndarray], float]
) -> tuple[float, float]:
    """A function of the value weight then, known as well as the time."""
    found = _rise(run, level)
    if found is None:
        return math.nan, math.nan
    here = function(np.asarray(found.model.value.value))
    if math.isnan(found.clock_error):
        return here, math.nan
    beside = found.clock + found.clock_error * np.array([-1.0, 1.0])
    records = run.record_at_clock(np.clip(beside, run.times[0], run.times[-1]))
    others = [function(w) for w in np.asarray(records["leaves"]["value"]["value"])]
    return here, max(abs(x - here) for x in others)


def _excess(weight: np.ndarray) -> float:
    """The stable rank less one, with the digits that it has where this is small."""
    sizes = np.linalg.svdvals(weight)
    return float(np.sum((sizes[1:] / sizes[0]) ** 2))


# --- the plateau ---------------------------------------------------------------------------


def _matrix(here: Setting) -> np.ndarray:
    return key_query_matrix(
        here.x, here.y, here.value, here.inner, here.readout,
        activation=here.activation, loss=here.loss,
    )  # fmt: skip


def _on_plateau(here: Setting, began: float, needed: bool) -> list[Curve]:
    matrix = _matrix(here)
    top = float(np.linalg.norm(matrix, 2))
    product = float(np.linalg.norm(here.query @ here.key.T, 2))
    if not (top > 0.0 and product < LOGITS):
        raise ValueError(
            f"The outer weights have norm {here.largest:.3g} and ‖W_QW_Kᵀ‖ = {product:.3g}: not "
            f"small (pass a level above {here.largest / _SMALL:.2g}, if that is ≪ 1) nor on "
            f"a plateau with ‖W_QW_Kᵀ‖ < {LOGITS:g}."
        )
    drift = _drift(here, matrix)
    length = plateau(matrix, here.query, here.key, math.sqrt(LOGITS)).length
    if drift * length > _DRIFT * top and not needed:
        return []
    if drift * length > _DRIFT * top:
        raise ValueError(
            f"The outer weights, of norm {here.largest:.3g}, do not rest: F with σ₁ = {top:.3g} "
            f"moves by {drift:.3g} a unit of time, on a plateau of length {length:.3g}. Follow "
            "them to rest (gflow.simulate), and predict from .final."
        )

    def logs(t: Times) -> Times:
        found = key_query_directions(matrix, here.query, here.key, t - began)
        both = np.linalg.norm(found.query @ found.key.mT, 2, axis=(-2, -1))
        return np.log(both) + found.log_query + found.log_key

    def off(t: Times) -> Times:
        span = t - began
        return drift * span**2 + _logits(here) * np.exp(np.minimum(logs(t), 0.0)) + 1e-10

    def read(run: Trajectory) -> tuple[np.ndarray, np.ndarray]:
        name = "kq.log_singular"
        bar = run.error.get(name)
        value = np.asarray(run.observables[name])[:, 0]
        return value, np.full(value.shape, math.nan) if bar is None else np.asarray(bar)[:, 0]

    return [
        Curve("log of the key-query weight", logs, off,
              "the drift of F at the speed it begins with, and logits",
              source=SOURCE, validity=VALIDITY, regime=(began, began + length), read=read),
    ]  # fmt: skip


def _logits(here: Setting) -> float:
    """What a unit of ‖W_QW_Kᵀ‖ changes the growth rates by, in all: logits of the data."""
    return float(np.max(np.sum(here.x**2, axis=-1))) / math.sqrt(here.x.shape[-1])


def _drift(here: Setting, matrix: np.ndarray) -> float:
    """‖dF/dt‖ as the outer weights move at uniform attention."""
    step = 1e-6 / max(1.0, float(np.linalg.norm(matrix, 2)))
    moved = here._replace(
        **{n: getattr(here, n) + step * f for n, f in zip(
            ("value", "inner", "readout"), _outer_forces(here), strict=True)}
    )  # fmt: skip
    return float(np.linalg.norm(_matrix(moved) - matrix, 2)) / step


def _outer_forces(here: Setting) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """−∂L of W_V, W1 and W2 where attention is uniform."""
    means = here.x.mean(axis=1)
    hidden = means @ here.value @ here.inner
    active = np.tanh(hidden) if here.activation == "tanh" else hidden
    slopes = 1.0 - active**2 if here.activation == "tanh" else np.ones_like(hidden)
    margins = here.y * (active @ here.readout)
    pull = np.exp(-margins) if here.loss == "exponential" else 1.0 / (1.0 + np.exp(margins))
    pull = pull * here.y / len(here.y)
    back = slopes * here.readout * pull[:, None]
    inner = (means @ here.value).T @ back
    return means.T @ (back @ here.inner.T), inner, active.T @ pull


def _growth(here: Setting) -> list[Number]:
    """2σ₁ of F at the minimiser of the loss of the mean tokens, where there is one."""
    if here.activation != "linear" or not separability(here.x, here.y).has_plateau:
        return []
    matrix = settled(here.x, here.y, here.loss)
    rate = 2.0 * float(np.linalg.norm(matrix, 2))

    def read(run: Trajectory) -> tuple[float, float]:
        logs = np.asarray(run.observables["kq.log_singular"])[:, 0]
        ends = [math.log(LOGITS) - decades * math.log(10.0) for decades in (4.0, 2.25, 0.5)]
        found = [np.flatnonzero(logs >= end) for end in ends]
        rows = [int(r[0]) if len(r) else 0 for r in found]
        if not 0 < rows[0] < rows[1] < rows[2] or "kq.log_singular" not in run.error:
            return math.nan, math.nan
        bars = np.asarray(run.error["kq.log_singular"])[:, 0]
        first, later = np.diff(logs[rows]) / np.diff(run.t[rows])
        span = float(run.t[rows[2]] - run.t[rows[0]])
        # u still moves where the rate does
        bar = float(bars[rows[0]] + bars[rows[2]]) / span + abs(float(later - first))
        return float(logs[rows[2]] - logs[rows[0]]) / span, bar

    # over the four decades before logits are LOGITS: u has come to u*, logits are a share
    share = _logits(here) * LOGITS * 10.0**-0.5
    return [
        Number("growth rate on the plateau", rate, read, 0.5 * share * rate,
               "logits at the end of four decades of growth", source=SOURCE, validity=VALIDITY,
               unit="1/flow time", resolves=0.1),
    ]  # fmt: skip


def settled(x: np.ndarray, y: np.ndarray, loss: str) -> Float[np.ndarray, "d d"]:
    """F at u*, where a linear read-out of uniform attention rests: a convex problem."""
    rows = y[:, None] * x.mean(axis=1)

    def value(u):
        q = rows @ u
        if loss == "exponential":
            e = np.exp(-q)
            return float(np.mean(e)), -np.mean(e[:, None] * rows, axis=0)
        p = 1.0 / (1.0 + np.exp(q))
        return float(np.mean(np.logaddexp(0.0, -q))), -np.mean(p[:, None] * rows, axis=0)

    def curvature(u):
        q = rows @ u
        p = 1.0 / (1.0 + np.exp(q))
        weight = np.exp(-q) if loss == "exponential" else p * (1.0 - p)
        return (rows * weight[:, None]).T @ rows / len(rows)

    found = optimize.minimize(
        value, np.zeros(x.shape[-1]), jac=True, hess=curvature, method="trust-exact",
        options={"gtol": 1e-13},
    )  # fmt: skip
    one = np.eye(x.shape[-1])
    return key_query_matrix(x, y, one, one, found.x, activation="linear", loss=loss)
