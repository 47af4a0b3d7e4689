"""Elementwise products u⊙v as logarithms: weights that start at any scale, 10^-1000000 included."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int8, PRNGKeyArray

from .._alpha import log_alpha_or_none, one_log_alpha
from .._arguments import lengths, random_key
from .._eager import eager
from ..coordinates._base import Coordinates
from ..coordinates._factors import FactorCoordinates
from ..coordinates._log import LogCoordinates
from ..coordinates._signed_logs import SignedLogs
from ._base import Constant, Small, Trainable, checked_log_alpha, float_array


class Hadamard(Small):
    r"""Elementwise product θ = u⊙v, held as logarithms of s = u + v and d = u − v.

    Gradient flow with g = −∂L/∂θ reads s' = g⊙s, d' = −g⊙d, θ = (s² − d²)/4, so
    c = u² − v² = s⊙d is conserved. The leaf stores

        log|s| = exponent_s·log_alpha + log|A|,   log|d| = exponent_d·log_alpha + log|C|

    with O(1) factors A, C, hence a weight at α = 10^-1000000 is an ordinary object.

    **Arguments:** `u`, `v`: arrays of one shape. `log_alpha`: the scale α that u and v
    are said to have (its natural logarithm; or `log10_alpha`, or `alpha`); needed only where
    τ = t/log(1/α) or a prediction is asked for.

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

    def __init__(
        self,
        u: ArrayLike,
        v: ArrayLike,
        *,
        log_alpha: ArrayLike | None = None,
        alpha: ArrayLike | None = None,
        log10_alpha: ArrayLike | None = None,
    ):
        log_alpha = log_alpha_or_none(log_alpha, alpha, log10_alpha)
        u, v = float_array(u, "u"), float_array(v, "v")
        if u.shape != v.shape:
            raise ValueError(
                f"Hadamard(u, v) multiplies entry by entry: u has shape {u.shape}, v has "
                f"{v.shape}. Broadcast one of them first."
            )
        logs = _factors(u, v, 0.0 if log_alpha is None else checked_log_alpha(log_alpha))
        self.log_factor_s, self.log_factor_d, self.sign_s, self.sign_d, one = logs
        self._exponent_s = Constant(one)
        self._exponent_d = Constant(one)
        self._log_alpha = Constant(checked_log_alpha(log_alpha))
        self._elapsed = Constant(0.0)

    def __check_init__(self):
        _check_logs(self.log_factor_s, self.log_factor_d)

    @classmethod
    def small(
        cls,
        shape: tuple[int, ...] | int,
        *,
        log_alpha: ArrayLike | None = None,
        alpha: ArrayLike | None = None,
        log10_alpha: ArrayLike | None = None,
        key: PRNGKeyArray,
    ) -> "Hadamard":
        """Random factors of size α: |A|, |C| log-uniform in [½, 2] with random signs.

        The factors depend on `key` alone, so that runs at several `log_alpha` are the
        same problem. `log_alpha` is the natural logarithm, as low as −1e7; in its place
        `log10_alpha` or `alpha`.
        """
        given = one_log_alpha(log_alpha, alpha, log10_alpha)
        scale = checked_log_alpha(given, required=True)
        drawn = _drawn(random_key(key), lengths("shape", shape))
        return cls._build(*drawn, 1.0, 1.0, scale)

    @classmethod
    def from_scales(
        cls,
        *,
        log_s: ArrayLike,
        log_d: ArrayLike,
        sign_s: ArrayLike = 1,
        sign_d: ArrayLike = 1,
        log_alpha: ArrayLike | None = None,
        alpha: ArrayLike | None = None,
        log10_alpha: ArrayLike | None = None,
        exponent_s: ArrayLike = 1.0,
        exponent_d: ArrayLike = 1.0,
    ) -> "Hadamard":
        """From log|s|, log|d| and signs, where log|s| = exponent_s·log_alpha + log|A|.

        Arguments broadcast to one shape. An active (non-zero) positive start has
        exponents (0, 2), a negative one (2, 0).
        """
        log_s, log_d = float_array(log_s, "log_s"), float_array(log_d, "log_d")
        log_alpha = log_alpha_or_none(log_alpha, alpha, log10_alpha)
        scale = checked_log_alpha(log_alpha)
        unit = 0.0 if log_alpha is None else scale
        factor_s, factor_d = _unscaled(log_s, log_d, exponent_s, exponent_d, unit)
        return cls._build(factor_s, factor_d, sign_s, sign_d, exponent_s, exponent_d, scale)

    @classmethod
    def _build(
        cls, factor_s, factor_d, sign_s, sign_d, exponent_s, exponent_d, log_alpha, elapsed=0.0
    ) -> "Hadamard":
        _check_logs(factor_s, factor_d)
        new = object.__new__(cls)
        sign_s, exponent_s = _filled(factor_s, sign_s, exponent_s)
        sign_d, exponent_d = _filled(factor_d, sign_d, exponent_d)
        for name, value in {
            "log_factor_s": factor_s,
            "log_factor_d": factor_d,
            "sign_s": sign_s,
            "sign_d": sign_d,
            "_exponent_s": Constant(exponent_s),
            "_exponent_d": Constant(exponent_d),
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

    @property
    def log_s(self) -> Float[Array, "..."]:
        """log|u + v|."""
        return _scaled(self.log_factor_s, self.exponent_s, self.log_alpha)

    @property
    def log_d(self) -> Float[Array, "..."]:
        """log|u − v|."""
        return _scaled(self.log_factor_d, self.exponent_d, self.log_alpha)

    @property
    def value(self) -> Float[Array, "..."]:
        """θ = u⊙v; an entry below the float range is 0 (see `log_abs`)."""
        return _product(self.log_s, self.log_d)

    def log_abs(self) -> Float[Array, "..."]:
        """log|θ|, finite where θ itself underflows."""
        return log_abs_product(self.log_s, self.log_d)

    def _log_sizes(self) -> Float[np.ndarray, "..."]:
        return np.asarray(self.log_abs())

    def conserved(self) -> Float[Array, "..."]:
        """c = u² − v²; 0 where it underflows (see `log_conserved`)."""
        sign = (self.sign_s * self.sign_d).astype(self.log_factor_s.dtype)
        return sign * jnp.exp(self.log_conserved())

    def log_conserved(self) -> Float[Array, "..."]:
        """log|u² − v²| = log|s| + log|d|."""
        return self.log_s + self.log_d

    def coordinates(self, decays: bool) -> LogCoordinates:
        signs = jnp.stack([self.sign_s, self.sign_d])
        return LogCoordinates.from_logs(self.log_s, self.log_d, signs, decays)

    def steps(self, coordinates: Coordinates) -> SignedLogs:
        return SignedLogs(self.log_s, self.log_d, self.sign_s, self.sign_d)

    def at_record(self, record: Mapping[str, Any], time: float) -> "Hadamard":
        """The leaf at recorded logs: what left the dormant state is an active start."""
        log_s, log_d = (float_array(record[k], k) for k in ("log_s", "log_d"))
        # Only discrete steps change signs.
        new = "sign_s" in record
        sign_s, sign_d = (record["sign_s"], record["sign_d"]) if new else (self.sign_s, self.sign_d)
        alpha = self.log_alpha.astype(log_s.dtype)
        known = bool(np.isfinite(alpha))
        if not known:
            return type(self)._build(
                log_s, log_d, sign_s, sign_d,
                self.exponent_s, self.exponent_d, alpha, time,
            )  # fmt: skip
        factor_s, factor_d, exponent_s, exponent_d = _started_at(
            log_s, log_d, self.log_s, self.log_d, self.exponent_s, self.exponent_d, alpha
        )
        return type(self)._build(
            factor_s, factor_d, sign_s, sign_d, exponent_s, exponent_d, alpha, time
        )

    def rescaled(self, log_alpha: ArrayLike) -> "Hadamard":
        """The same O(1) factors and exponents at another α."""
        if not bool(np.isfinite(self.log_alpha)):
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

    def numbers(self, log_alpha: float) -> dict[str, Any]:
        own = float(self.log_alpha)
        shift = log_alpha if math.isnan(own) and log_alpha < 0 else 0.0
        s, d, e, f = (np.asarray(x) for x in self.unscaled())
        return {
            "log|A|": s - shift * e, "log|C|": d - shift * f, "exponent of A": e, "exponent of C": f
        }  # fmt: skip

    def fault(self, allow_frozen_sign: bool) -> str | None:
        logs = np.asarray(self.log_factor_s), np.asarray(self.log_factor_d)
        frozen = np.argwhere(np.isneginf(logs[0]) | np.isneginf(logs[1]))
        if allow_frozen_sign or not frozen.size:
            return None
        index = tuple(int(i) for i in frozen[0])
        return (
            f"has |u| = |v| at index {index}: the sign of that weight can never change. Draw "
            "unequal factors (Hadamard.small), or pass allow_frozen_sign=True if that is meant."
        )

    @property
    def factors(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """u and v; 0 where they are below the float range."""
        s = self.sign_s.astype(self.log_s.dtype) * jnp.exp(self.log_s)
        d = self.sign_d.astype(self.log_d.dtype) * jnp.exp(self.log_d)
        return 0.5 * (s + d), 0.5 * (s - d)

    def plain(self) -> "HadamardFactors":
        """Plain u = (s + d)/2 and v = (s − d)/2; refused where they underflow."""
        tiny = math.log(np.finfo(self.log_factor_s.dtype).tiny)
        lowest = float(jnp.min(jnp.maximum(self.log_s, self.log_d)))
        if lowest < tiny:
            raise ValueError(
                f"u and v are as small as e^{lowest:.6g}, below the float range (e^{tiny:.4g}). "
                "Only the log coordinates of gflow.simulate reach there; rescale the "
                "model to a larger log_alpha for an outside optimiser."
            )
        return HadamardFactors(*self.factors)


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

    @property
    def factors(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        return self.u, self.v

    def conserved(self) -> Float[Array, "..."]:
        """u² − v², as the product (u + v)(u − v)."""
        return (self.u + self.v) * (self.u - self.v)

    def coordinates(self, decays: bool) -> FactorCoordinates:
        return FactorCoordinates(self.u, self.v)

    def at_record(self, record: Mapping[str, Any], time: float) -> "HadamardFactors":
        return type(self)(jnp.asarray(record["u"]), jnp.asarray(record["v"]))


@eager
def log_abs_product(xp: Any, log_s: Any, log_d: Any) -> Any:
    """log|θ| of θ = (s² − d²)/4 from log|s| and log|d|; −∞ where they are equal."""
    larger = xp.maximum(log_s, log_d)
    gap = xp.minimum(log_s, log_d) - larger
    return 2.0 * larger - math.log(4.0) + xp.log(-xp.expm1(2.0 * gap))


@eager
def _product(xp: Any, log_s: Any, log_d: Any) -> Any:
    """θ = (s² − d²)/4."""
    larger = xp.maximum(log_s, log_d)
    gap = xp.minimum(log_s, log_d) - larger
    return xp.sign(log_s - log_d) * 0.25 * xp.exp(2.0 * larger) * -xp.expm1(2.0 * gap)


@functools.partial(jax.jit, static_argnums=1)
def _drawn(key: PRNGKeyArray, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """log|A|, log|C| uniform between ±log 2, and random signs."""
    keys = jax.random.split(key, 4)
    factor = [
        jax.random.uniform(k, shape, minval=-math.log(2), maxval=math.log(2)) for k in keys[:2]
    ]
    return *factor, *(jax.random.rademacher(k, shape, dtype=jnp.int8) for k in keys[2:])


@eager
def _factors(xp: Any, u: Any, v: Any, shift: Any) -> Any:
    """log|A|, log|C|, the signs of s = u + v and d = u − v, and ones."""
    shift = xp.asarray(shift, u.dtype)
    logs = [xp.log(xp.abs(x)) - shift for x in (u + v, u - v)]
    return *logs, *(xp.sign(x).astype(np.int8) for x in (u + v, u - v)), xp.ones_like(u)


@eager
def _unscaled(xp: Any, log_s: Any, log_d: Any, exponent_s: Any, exponent_d: Any, unit: Any) -> Any:
    """log|A|, log|C| of one shape."""
    unit = xp.asarray(unit, log_s.dtype)
    log_s, log_d = xp.broadcast_arrays(log_s, log_d)
    return (
        log_s - xp.asarray(exponent_s, log_s.dtype) * unit,
        log_d - xp.asarray(exponent_d, log_s.dtype) * unit,
    )


@eager
def _filled(xp: Any, factor: Any, sign: Any, exponent: Any) -> Any:
    """Signs (0 where the factor is) and exponents of the shape of `factor`."""
    sign = xp.broadcast_to(xp.asarray(sign, np.int8), factor.shape)
    exponent = xp.broadcast_to(xp.asarray(exponent, factor.dtype), factor.shape)
    return xp.where(xp.isneginf(factor), xp.zeros_like(sign), sign), exponent


@eager
def _scaled(xp: Any, factor: Any, exponent: Any, log_alpha: Any) -> Any:
    """log|A| + exponent·log α, where α is known."""
    log_alpha = log_alpha.astype(exponent.dtype)
    known = xp.isfinite(log_alpha)
    return factor + xp.where(known, exponent * xp.where(known, log_alpha, 0.0), 0.0)


@eager
def _started_at(
    xp: Any, log_s: Any, log_d: Any, from_s: Any, from_d: Any, exponent_s: Any, exponent_d: Any,
    alpha: Any,
) -> Any:  # fmt: skip
    """O(1) factors and exponents of a start at log_s, log_d by way of from_s, from_d."""
    # s·d changes by decay and discrete steps alone, not by rounding
    total = exponent_s + exponent_d
    exponent_s = exponent_s + _moved_by(xp, log_s, from_s) / alpha
    exponent_d = exponent_d + _moved_by(xp, log_d, from_d) / alpha
    shrunk = exponent_s + exponent_d - total
    total = total + xp.where(xp.abs(shrunk) > 1e-9, shrunk, 0.0)
    larger, smaller = xp.maximum(log_s, log_d), xp.minimum(log_s, log_d)
    size = 2.0 * larger - math.log(4.0) + xp.log(-xp.expm1(2.0 * (smaller - larger)))
    on_s = size > 0.5 * alpha
    on_d = on_s & (log_d > log_s)
    on_s = on_s & ~on_d
    zero = xp.zeros_like(total)
    exponent_s = xp.where(on_s, zero, xp.where(on_d, total, exponent_s))
    exponent_d = xp.where(on_d, zero, xp.where(on_s, total, exponent_d))
    return log_s - exponent_s * alpha, log_d - exponent_d * alpha, exponent_s, exponent_d


def _moved_by(xp: Any, log: Any, start: Any) -> Any:
    """log − start, and 0 of a factor that is zero and stays so."""
    zero = xp.isneginf(log) & xp.isneginf(start)
    return xp.where(zero, 0.0, log - xp.where(zero, 0.0, start))


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
