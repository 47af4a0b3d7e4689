r"""The two ways to write the flow of θ = u⊙v for a library that only knows y' = f(t, y).

Raw factors (the model as it is usually written):

    u' = v⊙g(u⊙v),   v' = u⊙g(u⊙v).

Dual coordinates y = ∫g dt, one a weight (what an expert would derive by hand: s = u + v
grows as e^y and d = u − v falls as e^{−y}, from the same s₀, d₀):

    y' = g(θ(y)),   θ_i = (s₀² e^{2y} − d₀² e^{−2y})/4,

where the exponentials are taken of log s₀ + y and log d₀ − y, so that nothing underflows,
and capped so that a trial step far too long gives a huge force and not NaN: LSODA would
carry the NaN to the end and report success.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .landscapes import Landscape


@dataclasses.dataclass(frozen=True)
class Factors:
    """Initial s and d of every weight: signs and natural logarithms."""

    log_s: np.ndarray
    log_d: np.ndarray
    sign_s: np.ndarray
    sign_d: np.ndarray

    @classmethod
    def of(cls, leaves) -> "Factors":
        """From `gflow.Hadamard` leaves, concatenated."""

        def joined(name):
            return np.concatenate([np.asarray(getattr(x, name), float).ravel() for x in leaves])

        return cls(*(joined(name) for name in ("log_s", "log_d", "sign_s", "sign_d")))

    def after(self, y: np.ndarray) -> "Factors":
        """The factors after ∫g dt = y."""
        return dataclasses.replace(self, log_s=self.log_s + y, log_d=self.log_d - y)

    @property
    def representable(self) -> bool:
        """Whether u and v are normal floats."""
        smallest = float(np.min(np.minimum(self.log_s, self.log_d)))
        return smallest > np.log(np.finfo(float).tiny)


@dataclasses.dataclass(frozen=True, eq=False)
class Formulation:
    """y' = f(t, y) from `start`, in NumPy with its Jacobian and in JAX.

    - `rhs(t, y)`, `jacobian(t, y)`: NumPy.
    - `field(t, y, args)`: the same in JAX, an Equinox module.
    - `weights(y)`: effective weights, of states along the last axis.
    - `landscape`, `factors`: the loss of effective weights behind it and the initial factors.
    - `scale`: size of the smallest start that an absolute tolerance must not drown.
    - `absolute`: errors of y count absolutely (y is a logarithm).
    - `stable_step`: largest stable step 2/λ_max of gradient descent (raw factors only).
    """

    start: np.ndarray
    rhs: Callable[[float, np.ndarray], np.ndarray]
    jacobian: Callable[[float, np.ndarray], np.ndarray]
    field: Any
    weights: Callable[[np.ndarray], np.ndarray]
    landscape: Landscape | None = None
    factors: Factors | None = None
    scale: float = 1.0
    absolute: bool = False
    stable_step: float = 0.0


#: Largest log|s|; weights of interest are O(1).
CAP = 150.0


class RawField(eqx.Module):
    """(u, v) ↦ (v⊙g, u⊙g)."""

    force: Any

    def __call__(self, t, y, args):
        u, v = jnp.split(y, 2)
        g = self.force(u * v)
        return jnp.concatenate([v * g, u * g])


class DualField(eqx.Module):
    """y ↦ g(θ(y))."""

    force: Any
    log_s: jax.Array
    log_d: jax.Array

    def __call__(self, t, y, args):
        log_s, log_d = jnp.minimum(self.log_s + y, CAP), jnp.minimum(self.log_d - y, CAP)
        return self.force(0.25 * (jnp.exp(2 * log_s) - jnp.exp(2 * log_d)))


def raw_jacobian(landscape: Landscape, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """∂(v⊙g, u⊙g)/∂(u, v) with g and G = ∂g/∂θ at θ = u⊙v."""
    p, theta = len(u), u * v
    g, G = landscape.force(theta), landscape.force_jacobian(theta)
    out = np.empty((2 * p, 2 * p))
    out[:p, :p] = v[:, None] * G * v
    out[:p, p:] = v[:, None] * G * u
    out[p:, :p] = u[:, None] * G * v
    out[p:, p:] = u[:, None] * G * u
    i = np.arange(p)
    out[i, p + i] += g
    out[p + i, i] += g
    return out


def raw(landscape: Landscape, factors: Factors, sharpness: float) -> Formulation:
    """The flow of the factors; `sharpness` is the largest eigenvalue of its Hessian."""
    s = factors.sign_s * np.exp(factors.log_s)
    d = factors.sign_d * np.exp(factors.log_d)
    p = len(s)

    def rhs(t, y):
        u, v = y[:p], y[p:]
        g = landscape.force(u * v)
        return np.concatenate([v * g, u * g])

    def jacobian(t, y):
        return raw_jacobian(landscape, y[:p], y[p:])

    return Formulation(
        start=np.concatenate([0.5 * (s + d), 0.5 * (s - d)]),
        rhs=rhs,
        jacobian=jacobian,
        field=RawField(landscape.traced),
        weights=lambda y: y[..., :p] * y[..., p:],
        landscape=landscape,
        factors=factors,
        scale=float(np.exp(np.min(np.minimum(factors.log_s, factors.log_d)))),
        stable_step=2.0 / sharpness,
    )


def dual(landscape: Landscape, factors: Factors) -> Formulation:
    """The flow of y = ∫g dt, started at zero."""
    log_s, log_d = factors.log_s, factors.log_d

    def squares(y):
        plus, minus = np.minimum(log_s + y, CAP), np.minimum(log_d - y, CAP)
        return 0.25 * np.exp(2 * plus), 0.25 * np.exp(2 * minus)

    def weights(y):
        plus, minus = squares(y)
        return plus - minus

    def jacobian(t, y):
        plus, minus = squares(y)
        return landscape.force_jacobian(plus - minus) * (2 * (plus + minus))

    return Formulation(
        start=np.zeros(len(log_s)),
        rhs=lambda t, y: landscape.force(weights(y)),
        jacobian=jacobian,
        field=DualField(landscape.traced, jnp.asarray(log_s), jnp.asarray(log_d)),
        weights=weights,
        landscape=landscape,
        factors=factors,
        absolute=True,
    )
