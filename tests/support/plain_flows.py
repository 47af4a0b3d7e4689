"""Random models, and their gradient flow in NumPy and SciPy alone.

The flow is integrated by DOP853 on plain factors: s = u + v and d = u − v of a product of two
numbers (s' = (g − λ)s, d' = (−g − λ)d), A and B of a matrix product, the other arrays as they
are, with forces written out by hand. Nothing here imports JAX or gflow.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

SMOOTH = ("squared", "logistic", "quartic", "poisson", "sine")
LOSSES = (*SMOOTH, "huber")

#: Name of a family → its terms, and the range of log10 α. The predictor of an example is
#: (⟨x, h + a⊙b + c⟩ + lᵀWr + ⟨out, tanh(hidden x)⟩)(1 + tanh⟨x, gate⟩) + bias.
FAMILIES = {
    "hadamard": (("h",), (-16.0, -2.0)),
    "gated": (("gate", "h"), (-16.0, -2.0)),
    "factored": (("w2",), (-5.0, -2.0)),
    "plain": (("ab", "bias", "c"), (-8.0, -2.0)),
    "network": (("bias", "hidden", "out"), (-4.0, -1.0)),
    "mixed": (("bias", "c", "h", "w1"), (-16.0, -2.0)),
}
LOG10 = math.log(10.0)
EXAMPLES, WIDTH, SIDE, HIDDEN = 30, 4, 3, 2
PAIRS, MATRICES = ("h", "gate", "ab"), {"w1": 1, "w2": 2}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One random model with its data: what a seed stands for."""

    seed: int
    family: str
    kind: str
    log_alpha: float
    decay: float
    rtol: float
    t1: float
    x: np.ndarray
    left: np.ndarray
    right: np.ndarray
    y: np.ndarray
    factors: dict[str, Any]

    def __str__(self) -> str:
        return (
            f"seed {self.seed} ({self.family}, {self.kind}, α = 1e{self.log_alpha / LOG10:.2f}, "
            f"decay {self.decay:.3g}, rtol {self.rtol:.0e}, t1 = {self.t1:.5g})"
        )


def draw(seed: int, family: str | None = None, kind: str | None = None) -> Problem:
    """The random model of a seed, of any family and loss or of the given ones."""
    rng = np.random.default_rng(seed)
    family = family or str(rng.choice(list(FAMILIES)))
    kind = kind or str(rng.choice(LOSSES))
    terms, (low, high) = FAMILIES[family]
    log_alpha = LOG10 * float(rng.uniform(low, high))
    if terms in (("h",), ("gate", "h")) and rng.random() < 0.2:
        log_alpha = -100.0 * LOG10
    mixing = np.eye(WIDTH) + 0.4 * rng.standard_normal((WIDTH, WIDTH))
    x = rng.standard_normal((EXAMPLES, WIDTH)) @ mixing * 0.7
    left, right = 0.8 * rng.standard_normal((2, EXAMPLES, SIDE))
    signal = x @ (rng.standard_normal(WIDTH) * rng.choice([1.0, 1.0, 0.0], WIDTH))
    if MATRICES.keys() & set(terms):
        signal = signal + np.sum((left @ rng.standard_normal((SIDE, SIDE))) * right, axis=1)
    factors = {name: _start(rng, name, log_alpha) for name in terms}
    y = _targets(rng, kind, 0.7 * signal)
    problem = Problem(seed, family, kind, log_alpha, 0.0, 1e-8, 1.0, x, left, right, y, factors)
    _, slope = pointwise(kind, predictor(problem, weights(problem, packed(problem))), y)
    matrix = np.linalg.norm(left.T @ (slope[:, None] * right), 2) / EXAMPLES
    rate = float(max(np.max(np.abs(x.T @ slope)) / EXAMPLES, matrix))
    # where a force bends DOP853 is known to 10⁻¹¹ and no better, whatever its tolerance
    finest = 1e-8 if kind == "huber" else 1e-10
    return dataclasses.replace(
        problem,
        decay=float(rng.choice([0.0, rng.uniform(0.02, 0.2) * rate])),
        rtol=max(float(rng.choice([1e-6, 1e-8, 1e-8, 1e-10])), finest),
        t1=float(rng.uniform(1.2, 4.0)) * max(-log_alpha, 5.0) / rate,
    )


def _start(rng: np.random.Generator, name: str, log_alpha: float) -> Any:
    """Factors of order one: (log s, log d, signs) of pairs, (A, B) of matrices, arrays."""
    if name in PAIRS:
        return rng.uniform(-LOG10 / 3, LOG10 / 3, (2, WIDTH)), rng.choice([-1, 1], (2, WIDTH))
    if name in MATRICES:
        return rng.standard_normal((2, SIDE, MATRICES[name]))
    shape = {"c": (WIDTH,), "bias": (), "hidden": (HIDDEN, WIDTH), "out": (HIDDEN,)}[name]
    return rng.standard_normal(shape) * (math.exp(log_alpha) if name in ("hidden", "out") else 0.5)


def _targets(rng: np.random.Generator, kind: str, signal: np.ndarray) -> np.ndarray:
    if kind == "logistic":
        return np.where(signal + rng.logistic(size=EXAMPLES) > 0, 1.0, -1.0)
    if kind == "poisson":
        return rng.poisson(np.exp(np.clip(signal, -3.0, 2.0))).astype(float)
    noise = 0.2 * rng.standard_normal(EXAMPLES)
    return np.sin(signal) + noise if kind == "sine" else signal + noise


# The reference, in NumPy.


def pointwise(kind: str, z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ℓ(z, y) and ∂ℓ/∂z."""
    r = z - y
    if kind == "squared":
        return 0.5 * r * r, r
    if kind == "logistic":
        return np.logaddexp(0.0, -y * z), -y / (1.0 + np.exp(y * z))
    if kind == "quartic":
        return r**4 / 8.0, r**3 / 2.0
    if kind == "poisson":
        return np.exp(z) - y * z, np.exp(z) - y
    if kind == "sine":
        return 0.5 * (np.sin(z) - y) ** 2, (np.sin(z) - y) * np.cos(z)
    far = np.abs(r) > 0.5
    return np.where(far, 0.5 * np.abs(r) - 0.125, 0.5 * r * r), np.where(far, 0.5 * np.sign(r), r)


def linear(p: Problem, w: dict[str, np.ndarray]) -> np.ndarray:
    total = p.x @ (
        w.get("h", 0.0) + w.get("a", 0.0) * w.get("b", 0.0) + w.get("c", np.zeros(WIDTH))
    )
    if "w" in w:
        total = total + np.sum((p.left @ w["w"]) * p.right, axis=1)
    if "out" in w:
        total = total + np.tanh(p.x @ w["hidden"].T) @ w["out"]
    return total


def predictor(p: Problem, w: dict[str, np.ndarray]) -> np.ndarray:
    gate = 1.0 + np.tanh(p.x @ w["gate"]) if "gate" in w else 1.0
    return linear(p, w) * gate + w.get("bias", 0.0)


def forces(p: Problem, w: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """−∂L/∂(effective weight), by hand; "ab" is that on the product a⊙b."""
    _, slope = pointwise(p.kind, predictor(p, w), p.y)
    slope = -slope / len(p.y)
    out = {"bias": np.sum(slope)}
    if "gate" in w:
        bend = np.tanh(p.x @ w["gate"])
        out["gate"] = p.x.T @ (slope * linear(p, w) * (1.0 - bend**2))
        slope = slope * (1.0 + bend)
    out["h"] = out["ab"] = out["c"] = p.x.T @ slope
    if "w" in w:
        out["w"] = p.left.T @ (slope[:, None] * p.right)
    if "out" in w:
        units = np.tanh(p.x @ w["hidden"].T)
        out["out"] = units.T @ slope
        out["hidden"] = (slope[:, None] * w["out"] * (1.0 - units**2)).T @ p.x
    return out


def loss(p: Problem, w: dict[str, np.ndarray]) -> float:
    return float(np.mean(pointwise(p.kind, predictor(p, w), p.y)[0]))


def energy(p: Problem, state: np.ndarray) -> float:
    """L + (λ/2)‖factors‖²; u² + v² = (s² + d²)/2."""
    sizes = {n: (0.25 if n in PAIRS else 0.5) * np.sum(x**2) for n, x in unpacked(p, state).items()}
    return loss(p, weights(p, state)) + p.decay * sum(sizes.values())


def packed(p: Problem) -> np.ndarray:
    """The factors at the start as one vector."""
    parts = []
    for name, start in p.factors.items():
        if name in PAIRS:
            start = start[1] * np.exp(p.log_alpha + start[0])
        elif name in MATRICES:
            start = math.exp(p.log_alpha) * start
        parts.append(np.ravel(start))
    return np.concatenate(parts)


def unpacked(p: Problem, state: np.ndarray) -> dict[str, np.ndarray]:
    sizes = [np.size(x[0]) if n in PAIRS else np.size(x) for n, x in p.factors.items()]
    parts = np.split(state, np.cumsum(sizes)[:-1])
    shapes = [np.shape(x[0]) if n in PAIRS else np.shape(x) for n, x in p.factors.items()]
    return {n: y.reshape(s) for n, y, s in zip(p.factors, parts, shapes, strict=True)}


def weights(p: Problem, state: np.ndarray) -> dict[str, np.ndarray]:
    """Effective weights, under the names that gflow gives them."""
    out = {}
    for name, x in unpacked(p, state).items():
        if name == "ab":
            out["a"], out["b"] = 0.5 * (x[0] + x[1]), 0.5 * (x[0] - x[1])
        elif name in PAIRS:
            out[name] = 0.25 * (x[0] - x[1]) * (x[0] + x[1])
        elif name in MATRICES:
            out["w"] = x[0] @ x[1].T
        else:
            out[name] = x
    return out


def magnitudes(p: Problem, state: np.ndarray) -> dict[str, np.ndarray]:
    """What effective weights are differences of: their rounding scales with it."""
    out = {}
    for name, x in unpacked(p, np.abs(state)).items():
        if name == "ab":
            out["a"] = out["b"] = 0.5 * (x[0] + x[1])
        elif name in PAIRS:
            out[name] = 0.25 * (x[0] ** 2 + x[1] ** 2)
        elif name in MATRICES:
            out["w"] = x[0] @ x[1].T
        else:
            out[name] = x
    return out


def velocity(p: Problem, state: np.ndarray) -> np.ndarray:
    g = forces(p, weights(p, state))
    parts = []
    for name, x in unpacked(p, state).items():
        if name in PAIRS:
            part = np.stack([g[name], -g[name]]) * x
        elif name in MATRICES:
            part = np.stack([g["w"] @ x[1], g["w"].T @ x[0]])
        else:
            part = g[name]
        parts.append(np.ravel(part - p.decay * x))
    return np.concatenate(parts)


class Reference:
    """The solution to `rtol`; between steps of the solver by one more step, not interpolated."""

    def __init__(self, p: Problem, rtol: float):
        atol = {n: 1e-16 * min(1.0, math.exp(p.log_alpha)) for n in ("w1", "w2", "hidden", "out")}
        like = unpacked(p, packed(p))
        atol |= dict.fromkeys(PAIRS, 1e-290)
        tiny = np.concatenate([np.full(x.size, atol.get(n, 1e-15)) for n, x in like.items()])
        self.problem = p
        self.options = {"method": "DOP853", "rtol": rtol, "atol": tiny}
        self.solution = solve_ivp(self._velocity, (0.0, p.t1), packed(p), **self.options)
        assert self.solution.success, self.solution.message

    def _velocity(self, _: float, state: np.ndarray) -> np.ndarray:
        return velocity(self.problem, state)

    def __call__(self, t: float) -> dict[str, np.ndarray]:
        """Effective weights and the loss at t."""
        w = weights(self.problem, self.state(t))
        return w | {"loss": np.asarray(loss(self.problem, w))}

    def magnitudes(self, t: float) -> dict[str, np.ndarray]:
        """What the rounding of these scales with."""
        state = self.state(t)
        w = weights(self.problem, state)
        return magnitudes(self.problem, state) | {"loss": np.asarray(loss(self.problem, w))}

    def state(self, t: float) -> np.ndarray:
        """The factors at t."""
        k = int(np.searchsorted(self.solution.t, t, side="right")) - 1
        start, state = self.solution.t[k], self.solution.y[:, k]
        if t > start:
            step = {"first_step": t - start}
            state = solve_ivp(self._velocity, (start, t), state, **step, **self.options).y[:, -1]
        return state

    def crossing(self, level: tuple[Any, float], near: float, width: float) -> float | None:
        """The crossing of a level that is nearest to a time."""
        what, value = level
        name, index = (what, ()) if what == "loss" else what

        def gap(t: float) -> float:
            return float(self(t)[name][index]) - value

        for reach in width * 4.0 ** np.arange(20):
            ends = max(near - reach, 0.0), min(near + reach, self.problem.t1)
            if gap(ends[0]) * gap(ends[1]) <= 0.0:
                return brentq(gap, *ends, xtol=1e-15 * near, rtol=1e-15)
        return None
