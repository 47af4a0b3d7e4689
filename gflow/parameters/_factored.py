"""Matrix products A Bᵀ whose columns keep their size as a logarithm, and plain chains."""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._alpha import log_alpha_or_none, one_log_alpha
from .._arguments import count, lengths, random_key
from .._eager import eager
from ..coordinates._base import Coordinates
from ..coordinates._column_steps import ColumnSteps
from ..coordinates._frame import FrameCoordinates
from ..coordinates._gauge import GaugeCoordinates
from ..coordinates._product import ChainCoordinates, balances, chained
from ..coordinates._spectra import log_spectra
from ._base import Constant, Small, Trainable, checked_log_alpha, float_array


class Factored(Small):
    r"""W = e^{2 log_scale} left @ rightᵀ: a matrix of rank at most r, from any scale.

    left: (..., m, r), right: (..., n, r); leading axes are heads. Gradient flow acts on the
    columns of Z = [left; right], Z' = HZ, and conserves leftᵀleft − rightᵀright. In
    `gflow.simulate` the columns are held as direction and logarithm, in a gauge in which
    they stay apart (`gflow.coordinates`): dense matrices start at α = 1e-100 in float64, or at
    log_alpha = −1e5. Attention: kq of a head (left acts on the query, right on the key),
    vo; LoRA: B A.

    **Arguments:** `log_scale`: natural logarithm of a factor of both. `log_alpha`: the scale
    α that the factors are said to have, for τ and for predictions (natural logarithm; or
    `log10_alpha`, or `alpha`); by default `log_scale`.
    `exponent`: one for each head, whose factor is then e^{exponent·log_scale}.

    Heads that feel the same force (value–output heads as long as attention is uniform) move
    one mode in parallel columns. What tells them apart keeps its digits, from α = 1e-200 on, where
    the model reads their sum as `.total` (`gflow.models.beyond_uniform`), as
    `gflow.models.SoftmaxAttention` does. Otherwise it sinks below rounding, and a run ends where
    that is felt, and says so.

    **Raises:** ValueError for factors that do not chain, or with NaN or infinite entries.

    ```python
    kq = gflow.Factored.small((8, 8), 4, log_alpha=-230.26, key=key)
    kq.value, kq.conserved(), kq.log_singular_values()
    ```
    """

    spectral: ClassVar[bool] = True

    left: Float[Array, "... m r"]
    right: Float[Array, "... n r"]
    _log_scale: Constant
    _exponent: Constant
    _log_alpha: Constant
    _elapsed: Constant
    #: Of heads that a run held in one frame, that and their components in it; else nothing.
    _frame: tuple[Constant, ...]

    def __init__(
        self,
        left: ArrayLike,
        right: ArrayLike,
        log_scale: ArrayLike = 0.0,
        log_alpha: ArrayLike | None = None,
        exponent: ArrayLike = 1.0,
        *,
        alpha: ArrayLike | None = None,
        log10_alpha: ArrayLike | None = None,
    ):
        log_alpha = log_alpha_or_none(log_alpha, alpha, log10_alpha)
        left, right = checked_factors(left, right, "left", "right")
        self.left, self.right = left, right
        scale = checked_log_alpha(log_scale, required=True)
        logs, power = _sizes(left, exponent, scale)
        self._log_scale = Constant(logs)
        self._exponent = Constant(power)
        given = log_scale if log_alpha is None else log_alpha
        self._log_alpha = Constant(checked_log_alpha(given, required=True))
        self._elapsed = Constant(0.0)
        self._frame = ()

    @classmethod
    def small(
        cls,
        shape: tuple[int, ...],
        rank: int,
        *,
        log_alpha: ArrayLike | None = None,
        alpha: ArrayLike | None = None,
        log10_alpha: ArrayLike | None = None,
        key: PRNGKeyArray,
        exponent: ArrayLike = 1.0,
    ) -> "Factored":
        """Gaussian factors of size α^exponent for W of `shape` (..., m, n), r = `rank` columns.

        The O(1) factors depend on `key` alone, so that runs at several `log_alpha` are the
        same problem. `log_alpha` is the natural logarithm; in its place `log10_alpha` or `alpha`.
        """
        log_alpha = one_log_alpha(log_alpha, alpha, log10_alpha)
        shape = lengths("shape", shape)
        if len(shape) < 2:
            raise ValueError(f"shape = {shape}: that of a matrix (m, n), or of heads of them.")
        *heads, m, n = shape
        rank = count("rank", rank, "the number of columns of either factor")
        factors = _drawn(random_key(key), (*heads, m, rank), (*heads, n, rank))
        return cls(*factors, log_scale=log_alpha, exponent=exponent)

    def _replaced(self, **values: Any) -> "Factored":
        new = object.__new__(type(self))
        for name in ("left", "right", "_log_scale", "_exponent", "_log_alpha", "_elapsed"):
            object.__setattr__(new, name, values.get(name, getattr(self, name)))
        object.__setattr__(new, "_frame", values.get("_frame", ()))
        return new

    @property
    def rank(self) -> int:
        """Number of columns r, the largest rank that W can have."""
        return self.left.shape[-1]

    @property
    def log_scale(self) -> Float[Array, "... r"]:
        """Logarithm of the factor of every column."""
        return self._log_scale.value

    @property
    def exponent(self) -> Float[Array, "... r"]:
        """e of every column, whose size is α^e: 1 at the start, 0 for an active one."""
        return self._exponent.value

    @property
    def log_alpha(self) -> Float[Array, "..."]:
        return self._log_alpha.value

    @property
    def elapsed(self) -> Float[Array, "..."]:
        return self._elapsed.value

    @property
    def value(self) -> Float[Array, "... m n"]:
        """W; singular values below the float range are 0 (see `log_singular_values`)."""
        sized = self.left * jnp.exp(2.0 * self.log_scale)[..., None, :]
        return jnp.matmul(sized, self.right.swapaxes(-1, -2))

    @property
    def factors(self) -> tuple[Float[Array, "... m r"], Float[Array, "... r n"]]:
        """left and rightᵀ with the scale of both; 0 where that is below the float range."""
        left, right = (x * jnp.exp(self.log_scale)[..., None, :] for x in (self.left, self.right))
        return left, right.swapaxes(-1, -2)

    def conserved(self) -> Float[Array, "... r r"]:
        """Balance leftᵀleft − rightᵀright with the scale of both; its gauge is the columns'."""
        return balances(self.factors)[0]

    _sized: ClassVar[str] = "columns |a||b|"

    def _log_sizes(self) -> Float[np.ndarray, "... r"]:
        left, right = (np.linalg.norm(np.asarray(x), axis=-2) for x in (self.left, self.right))
        with np.errstate(divide="ignore"):
            return 2.0 * np.asarray(self.log_scale) + np.log(left) + np.log(right)

    def _facts(self) -> list[tuple[str, str]]:
        shape, *others = super()._facts()
        return [shape, ("rank ≤", str(self.rank)), *others]

    def log_singular_values(self) -> Float[Array, "... modes"]:
        """Logarithms of the min(m, n, r) largest singular values, finite where W underflows."""
        coordinates = self.coordinates(False)
        columns = coordinates.record(coordinates.start())
        return log_spectra(columns["direction"], columns["log_size"], self.left.shape[-2])

    def coordinates(self, decays: bool) -> GaugeCoordinates:
        return GaugeCoordinates.from_columns(self.left, self.right, self.log_scale)

    def in_frame(self) -> FrameCoordinates | None:
        """Where a run has left heads that feel one force; None of factors that are others since."""
        if not self._frame:
            return None
        basis, y = (x.value for x in self._frame)
        heads = y.reshape(*basis.shape[:-2], -1, *y.shape[-2:])
        columns = jnp.matmul(basis[..., None, :, :], heads).reshape(y.shape)
        held = jnp.concatenate([self.left, self.right], axis=-2)
        if not np.max(np.abs(columns - held)) < 1e-12:
            return None
        count = heads.shape[-3]
        rotations = jnp.zeros(y.shape[:-2], jnp.int32)
        known = jnp.zeros((*basis.shape[:-2], count, count), bool)
        return FrameCoordinates(y, self.log_scale, rotations, known, self.left.shape[-2], basis)

    def steps(self, coordinates: Coordinates) -> ColumnSteps:
        return ColumnSteps(coordinates)

    def at_record(self, record: Mapping[str, Any], time: float) -> "Factored":
        """The leaf at recorded columns, in the gauge of the record."""
        direction, log_size = (jnp.asarray(record[k]) for k in ("direction", "log_size"))
        m = self.left.shape[-2]
        alpha = self.log_alpha.astype(log_size.dtype)
        small = alpha < 0
        exponent = jnp.where(small, log_size / jnp.where(small, alpha, 1.0), self.exponent)
        active = small & (2.0 * log_size > 0.5 * alpha)
        return self._replaced(
            left=direction[..., :m, :],
            right=direction[..., m:, :],
            _log_scale=Constant(log_size),
            _exponent=Constant(jnp.where(active, 0.0, exponent)),
            _elapsed=Constant(time),
            _frame=tuple(
                Constant(jnp.asarray(record[name]))
                for name in ("basis", "components")
                if name in record
            ),
        )

    def rescaled(self, log_alpha: ArrayLike) -> "Factored":
        """The same O(1) factors and exponents at another α."""
        new = checked_log_alpha(log_alpha, required=True)
        shift = (new - self.log_alpha).astype(self.log_scale.dtype)
        return self._replaced(
            _log_scale=Constant(self.log_scale + self.exponent * shift),
            _log_alpha=Constant(new),
            _elapsed=Constant(0.0),
        )

    def unscaled(self) -> tuple[Array, ...]:
        rest = self.log_scale - self.exponent * self.log_alpha.astype(self.log_scale.dtype)
        scale = jnp.exp(rest)[..., None, :]
        return self.left * scale, self.right * scale, self.exponent

    def plain(self) -> Trainable:
        """Plain left and right with their scale; refused where they underflow."""
        lowest = float(jnp.min(self.log_scale))
        tiny = math.log(np.finfo(self.left.dtype).tiny)
        if lowest < tiny:
            raise ValueError(
                f"Columns are as small as e^{lowest:.6g}, below the float range (e^{tiny:.4g}). "
                "Only gflow.simulate reaches there; rescale the model to a larger log_alpha for "
                "an outside optimiser."
            )
        left, right = self.factors
        return self._plain(left, right.swapaxes(-1, -2))

    def _plain(self, left: Array, right: Array) -> Trainable:
        return PlainFactors(left, right)


class PlainFactors(Trainable):
    """W = left @ rightᵀ with plain arrays: what an outside optimiser trains.

    Simulated as it is: once a dormant mode is 1e-15 of a learned one it is lost in rounding,
    and the run says so.
    """

    spectral: ClassVar[bool] = True

    left: Float[Array, "... m r"]
    right: Float[Array, "... n r"]

    def __init__(self, left: ArrayLike, right: ArrayLike):
        self.left, self.right = checked_factors(left, right, "left", "right")

    @property
    def value(self) -> Float[Array, "... m n"]:
        return jnp.matmul(self.left, self.right.swapaxes(-1, -2))

    @property
    def factors(self) -> tuple[Float[Array, "... m r"], Float[Array, "... r n"]]:
        return self.left, self.right.swapaxes(-1, -2)

    def conserved(self) -> Float[Array, "... r r"]:
        """leftᵀleft − rightᵀright."""
        return balances(self.factors)[0]

    def coordinates(self, decays: bool) -> ChainCoordinates:
        return ChainCoordinates.at_factors(self.factors, pair=True)

    def at_record(self, record: Mapping[str, Any], time: float) -> "PlainFactors":
        return PlainFactors(
            jnp.asarray(record["factor_0"]), jnp.asarray(record["factor_1"]).swapaxes(-1, -2)
        )


class Product(Trainable):
    """W = factors[0] @ factors[1] @ …: a chain of matrices, trained as plain arrays.

    With three and more factors at scale α the time scale is α^{2−D}; dormant modes that
    sink below the rounding of learned ones end the run with a status that says so. From any
    scale: `gflow.models.DeepLinear.small`.

    ```python
    weight = gflow.Product(w3, w2, w1)      # value = w3 @ w2 @ w1
    ```
    """

    spectral: ClassVar[bool] = True

    factors: tuple[Float[Array, "... rows columns"], ...]

    def __init__(self, *factors: ArrayLike):
        arrays = tuple(float_array(x, f"factor {i}") for i, x in enumerate(factors))
        if len(arrays) < 2:
            raise ValueError(f"Product multiplies two or more matrices; {len(arrays)} given.")
        for i, (a, b) in enumerate(itertools.pairwise(arrays)):
            if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
                raise ValueError(
                    f"Product: factor {i} has shape {a.shape} and factor {i + 1} {b.shape}; the "
                    "columns of one must be as many as the rows of the next."
                )
        for i, x in enumerate(arrays):
            _check_finite(x, f"factor {i}")
        self.factors = arrays

    @property
    def value(self) -> Float[Array, "... m n"]:
        return chained(self.factors)

    def conserved(self) -> tuple[Float[Array, "... k k"], ...]:
        """aᵀa − bbᵀ for every pair of neighbours a, b."""
        return balances(self.factors)

    def coordinates(self, decays: bool) -> ChainCoordinates:
        return ChainCoordinates.at_factors(self.factors)

    def at_record(self, record: Mapping[str, Any], time: float) -> "Product":
        return Product(*(jnp.asarray(record[f"factor_{i}"]) for i in range(len(self.factors))))


@eager
def _sizes(xp: Any, left: Any, exponent: Any, scale: Any) -> Any:
    """Logarithm and exponent of the size of every column, from those of every head."""
    power = xp.asarray(exponent, left.dtype)
    if power.ndim:
        power = power[..., None]
    power = xp.broadcast_to(power, (*left.shape[:-2], left.shape[-1]))
    return power * xp.asarray(scale, left.dtype), power


@functools.partial(jax.jit, static_argnums=(1, 2))
def _drawn(key: PRNGKeyArray, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[Array, ...]:
    """Gaussian factors of these shapes."""
    keys = jax.random.split(key)
    return jax.random.normal(keys[0], left), jax.random.normal(keys[1], right)


def checked_factors(left: ArrayLike, right: ArrayLike, *names: str) -> tuple[Array, Array]:
    left, right = float_array(left, names[0]), float_array(right, names[1])
    same = left.ndim == right.ndim >= 2 and left.shape[:-2] == right.shape[:-2]
    if not same or left.shape[-1] != right.shape[-1]:
        raise ValueError(
            f"W = left @ rightᵀ: left has shape {left.shape} and right {right.shape}; they need "
            "the same number of columns (last axis) and the same leading axes of heads."
        )
    _check_finite(left, names[0])
    _check_finite(right, names[1])
    return left, right


def _check_finite(x: Array, name: str) -> None:
    if not isinstance(x, jax.core.Tracer) and not np.all(np.isfinite(np.asarray(x))):
        raise ValueError(f"{name} has NaN or infinite entries.")
