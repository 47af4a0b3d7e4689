"""Elementwise products u⊙v as logarithms: weights that start at any scale, 10^-1000000 included."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int8, PRNGKeyArray

from .coordinates import FactorCoordinates, LogCoordinates
from .parameters import Constant, Small, Trainable, checked_log_alpha, float_array


class Hadamard(Small):
    r"""Elementwise product θ = u⊙v, held as logarithms of s = u + v and d = u − v.

    Gradient flow with g = −∂L/∂θ reads s' = g⊙s, d' = −g⊙d, θ = (s² − d²)/4, so
    c = u² − v² = s⊙d is conserved. The leaf stores

        log|s| = exponent_s·log_alpha + log|A|,   log|d| = exponent_d·log_alpha + log|C|

    with O(1) factors A, C, hence a weight at α = 10^-1000000 is an ordinary object.

    **Arguments:** `u`, `v`: arrays of one shape. `log_alpha`: the scale α that u and v
    are said to have; needed only where τ = t/log(1/α) or a prediction is asked for.

    **Raises:** ValueError for different shapes, NaN or infinite entries, or a weight
    whose two factors are both zero (it would stay zero for ever).

    **Source:** s, d coordinates: Woodworth et al. 2020 (2002.09277); exponents: the
    b of Boix-Adsera et al. 2023 (2306.07042).

    ```python
    weight = gflow.Hadamard(jnp.array([1e-3, 2e-3]), jnp.array([0.0, 1e-3]))
    weight.value          # u*v
    ```
    """

    log_factor_s: Float[Array, "..."]
    log_factor_d: Float[Array, "..."]
    sign_s: Int8[Array, "..."]
    sign_d: Int8[Array, "..."]
    _exponent_s: Constant
    _exponent_d: Constant
    _log_alpha: Constant
    _elapsed: Constant

    def __init__(self, u: ArrayLike, v: ArrayLike, *, log_alpha: ArrayLike | None = None):
        u, v = float_array(u, "u"), float_array(v, "v")
        if u.shape != v.shape:
            raise ValueError(
                f"Hadamard(u, v) multiplies entry by entry: u has shape {u.shape}, v has "
                f"{v.shape}. Broadcast one of them first."
            )
        s, d = u + v, u - v
        shift = 0.0 if log_alpha is None else jnp.asarray(log_alpha, u.dtype)
        self.log_factor_s = jnp.log(jnp.abs(s)) - shift
        self.log_factor_d = jnp.log(jnp.abs(d)) - shift
        self.sign_s = jnp.sign(s).astype(jnp.int8)
        self.sign_d = jnp.sign(d).astype(jnp.int8)
        self._exponent_s = Constant(jnp.ones_like(u))
        self._exponent_d = Constant(jnp.ones_like(u))
        self._log_alpha = Constant(checked_log_alpha(log_alpha))
        self._elapsed = Constant(0.0)

    def __check_init__(self):
        _check_logs(self.log_factor_s, self.log_factor_d)

    @classmethod
    def small(
        cls, shape: tuple[int, ...] | int, *, log_alpha: ArrayLike, key: PRNGKeyArray
    ) -> "Hadamard":
        """Random factors of size α: |A|, |C| log-uniform in [½, 2] with random signs.

        The factors depend on `key` alone, so that runs at several `log_alpha` are the
        same problem. `log_alpha` is the natural logarithm, as low as −1e7.
        """
        shape = tuple(shape) if isinstance(shape, Sequence) else (operator.index(shape),)
        keys = jax.random.split(key, 4)
        factor = [
            jax.random.uniform(k, shape, minval=-math.log(2), maxval=math.log(2)) for k in keys[:2]
        ]
        sign = [jax.random.rademacher(k, shape, dtype=jnp.int8) for k in keys[2:]]
        log_alpha = checked_log_alpha(log_alpha, required=True)
        return cls._build(*factor, *sign, 1.0, 1.0, log_alpha)

    @classmethod
    def from_scales(
        cls,
        *,
        log_s: ArrayLike,
        log_d: ArrayLike,
        sign_s: ArrayLike = 1,
        sign_d: ArrayLike = 1,
        log_alpha: ArrayLike | None = None,
        exponent_s: ArrayLike = 1.0,
        exponent_d: ArrayLike = 1.0,
    ) -> "Hadamard":
        """From log|s|, log|d| and signs, where log|s| = exponent_s·log_alpha + log|A|.

        Arguments broadcast to one shape. An active (non-zero) positive start has
        exponents (0, 2), a negative one (2, 0).
        """
        log_s, log_d = jnp.broadcast_arrays(
            float_array(log_s, "log_s"), float_array(log_d, "log_d")
        )
        scale = checked_log_alpha(log_alpha)
        factor_s, factor_d = log_s, log_d
        if log_alpha is not None:
            unit = scale.astype(log_s.dtype)
            factor_s = log_s - jnp.asarray(exponent_s, log_s.dtype) * unit
            factor_d = log_d - jnp.asarray(exponent_d, log_s.dtype) * unit
        return cls._build(factor_s, factor_d, sign_s, sign_d, exponent_s, exponent_d, scale)

    @classmethod
    def _build(
        cls, factor_s, factor_d, sign_s, sign_d, exponent_s, exponent_d, log_alpha, elapsed=0.0
    ) -> "Hadamard":
        _check_logs(factor_s, factor_d)
        new = object.__new__(cls)
        shape, dtype = factor_s.shape, factor_s.dtype

        def full(x, dtype=dtype):
            return jnp.broadcast_to(jnp.asarray(x, dtype), shape)

        for name, value in {
            "log_factor_s": factor_s,
            "log_factor_d": factor_d,
            "sign_s": jnp.where(jnp.isneginf(factor_s), jnp.int8(0), full(sign_s, jnp.int8)),
            "sign_d": jnp.where(jnp.isneginf(factor_d), jnp.int8(0), full(sign_d, jnp.int8)),
            "_exponent_s": Constant(full(exponent_s)),
            "_exponent_d": Constant(full(exponent_d)),
            "_log_alpha": Constant(log_alpha),
            "_elapsed": Constant(elapsed),
        }.items():
            object.__setattr__(new, name, value)
        return new

    @property
    def shape(self) -> tuple[int, ...]:
        return self.log_factor_s.shape

    @property
    def log_alpha(self) -> Float[Array, "..."]:
        """Logarithm of the initial scale; NaN when the leaf was built without one."""
        return self._log_alpha.value

    @property
    def exponent_s(self) -> Float[Array, "..."]:
        return self._exponent_s.value

    @property
    def exponent_d(self) -> Float[Array, "..."]:
        return self._exponent_d.value

    @property
    def elapsed(self) -> Float[Array, "..."]:
        """Flow time since the leaf was at its initial scale: the origin of τ."""
        return self._elapsed.value

    def _shift(self, exponent: Array) -> Array:
        log_alpha = self.log_alpha.astype(exponent.dtype)
        known = jnp.isfinite(log_alpha)
        return jnp.where(known, exponent * jnp.where(known, log_alpha, 0.0), 0.0)

    @property
    def log_s(self) -> Float[Array, "..."]:
        """log|u + v|."""
        return self.log_factor_s + self._shift(self.exponent_s)

    @property
    def log_d(self) -> Float[Array, "..."]:
        """log|u − v|."""
        return self.log_factor_d + self._shift(self.exponent_d)

    @property
    def value(self) -> Float[Array, "..."]:
        """θ = u⊙v; an entry below the float range is 0 (see `log_abs`)."""
        larger = jnp.maximum(self.log_s, self.log_d)
        gap = jnp.minimum(self.log_s, self.log_d) - larger
        sign = jnp.sign(self.log_s - self.log_d)
        return sign * 0.25 * jnp.exp(2.0 * larger) * -jnp.expm1(2.0 * gap)

    def log_abs(self) -> Float[Array, "..."]:
        """log|θ|, finite where θ itself underflows."""
        return log_abs_product(self.log_s, self.log_d)

    def conserved(self) -> Float[Array, "..."]:
        """c = u² − v²; 0 where it underflows (see `log_conserved`)."""
        sign = (self.sign_s * self.sign_d).astype(self.log_factor_s.dtype)
        return sign * jnp.exp(self.log_conserved())

    def log_conserved(self) -> Float[Array, "..."]:
        """log|u² − v²| = log|s| + log|d|."""
        return self.log_s + self.log_d

    def coordinates(self, decays: bool) -> LogCoordinates:
        return LogCoordinates.from_logs(self.log_s, self.log_d, decays)

    def moved(self, record: dict[str, Any], time: float) -> "Hadamard":
        """The leaf at recorded logs: what left the dormant state is an active start."""
        log_s, log_d = (jnp.asarray(record[k]) for k in ("log_s", "log_d"))
        # Only discrete steps change signs.
        sign_s = jnp.asarray(record.get("sign_s", self.sign_s))
        sign_d = jnp.asarray(record.get("sign_d", self.sign_d))
        alpha = self.log_alpha.astype(log_s.dtype)
        known = bool(jnp.isfinite(alpha))
        if not known:
            return type(self)._build(
                log_s, log_d, sign_s, sign_d,
                self.exponent_s, self.exponent_d, alpha, time,
            )  # fmt: skip
        exponent_s = self.exponent_s + (log_s - self.log_s) / alpha
        exponent_d = self.exponent_d + (log_d - self.log_d) / alpha
        # s·d changes by decay and discrete steps alone, not by rounding
        total = self.exponent_s + self.exponent_d
        shrunk = exponent_s + exponent_d - total
        total = total + jnp.where(jnp.abs(shrunk) > 1e-9, shrunk, 0.0)
        on_s = log_abs_product(log_s, log_d) > 0.5 * alpha
        on_d = on_s & (log_d > log_s)
        on_s = on_s & ~on_d
        zero = jnp.zeros_like(total)
        exponent_s = jnp.where(on_s, zero, jnp.where(on_d, total, exponent_s))
        exponent_d = jnp.where(on_d, zero, jnp.where(on_s, total, exponent_d))
        return type(self)._build(
            log_s - exponent_s * alpha, log_d - exponent_d * alpha,
            sign_s, sign_d, exponent_s, exponent_d, alpha, time,
        )  # fmt: skip

    def rescaled(self, log_alpha: ArrayLike) -> "Hadamard":
        """The same O(1) factors and exponents at another α."""
        if not bool(jnp.isfinite(self.log_alpha)):
            raise ValueError(
                "This Hadamard leaf was built without log_alpha, so its O(1) factors are "
                "not known. Build it with Hadamard(u, v, log_alpha=...) or "
                "Hadamard.small(shape, log_alpha=..., key=...)."
            )
        return type(self)._build(
            self.log_factor_s, self.log_factor_d, self.sign_s, self.sign_d,
            self.exponent_s, self.exponent_d, checked_log_alpha(log_alpha, required=True),
        )  # fmt: skip

    def unscaled(self) -> tuple[Array, ...]:
        return self.log_factor_s, self.log_factor_d, self.exponent_s, self.exponent_d

    def factors(self) -> "HadamardFactors":
        """Plain u = (s + d)/2 and v = (s − d)/2; refused where they underflow."""
        tiny = math.log(np.finfo(self.log_factor_s.dtype).tiny)
        lowest = float(jnp.min(jnp.maximum(self.log_s, self.log_d)))
        if lowest < tiny:
            raise ValueError(
                f"u and v are as small as e^{lowest:.6g}, below the float range (e^{tiny:.4g}). "
                "Only the log coordinates of gflow.simulate reach there; rescale the "
                "model to a larger log_alpha for an outside optimiser."
            )
        s = self.sign_s.astype(self.log_s.dtype) * jnp.exp(self.log_s)
        d = self.sign_d.astype(self.log_d.dtype) * jnp.exp(self.log_d)
        return HadamardFactors(0.5 * (s + d), 0.5 * (s - d))


class HadamardFactors(Trainable):
    """θ = u⊙v with plain arrays u and v: what an outside optimiser trains.

    Simulated in raw coordinates, where u − v is lost to rounding once
    |(u − v)/(u + v)| < 1e-15: every active weight when α < 3e-8.
    """

    u: Float[Array, "..."]
    v: Float[Array, "..."]

    @property
    def value(self) -> Float[Array, "..."]:
        return self.u * self.v

    def conserved(self) -> Float[Array, "..."]:
        """u² − v², as the product (u + v)(u − v)."""
        return (self.u + self.v) * (self.u - self.v)

    def coordinates(self, decays: bool) -> FactorCoordinates:
        return FactorCoordinates(self.u, self.v)

    def moved(self, record: dict[str, Any], time: float) -> "HadamardFactors":
        return type(self)(jnp.asarray(record["u"]), jnp.asarray(record["v"]))


def log_abs_product(log_s: Any, log_d: Any) -> Any:
    """log|θ| of θ = (s² − d²)/4 from log|s| and log|d|; −∞ where they are equal."""
    larger = jnp.maximum(log_s, log_d)
    gap = jnp.minimum(log_s, log_d) - larger
    return 2.0 * larger - math.log(4.0) + jnp.log(-jnp.expm1(2.0 * gap))


def _check_logs(s: Array, d: Array) -> None:
    if isinstance(s, jax.core.Tracer) or isinstance(d, jax.core.Tracer):
        return
    log_s, log_d = np.asarray(s), np.asarray(d)
    if np.any(np.isnan(log_s) | np.isnan(log_d) | np.isposinf(log_s) | np.isposinf(log_d)):
        raise ValueError(
            "A Hadamard leaf needs finite factors: NaN or infinity in u, v (or in log_s, log_d)."
        )
    both = np.isneginf(log_s) & np.isneginf(log_d)
    if np.any(both):
        raise ValueError(
            f"Both factors are zero at index {tuple(int(i) for i in np.argwhere(both)[0])}: "
            "that weight would never move. Use Hadamard.small(shape, log_alpha=..., key=...) "
            "for a tiny start, or gflow.Frozen for a weight that should stay."
        )
