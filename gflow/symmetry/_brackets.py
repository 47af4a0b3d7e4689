r"""The Lie algebra of the gradients of a model's outputs, as a space of directions at a point.

Every loss of the outputs f_k moves the weights along the fields ∇f_k. What all these flows leave
constant has its gradient orthogonal to the fields, to their brackets [X, Y] = DY·X − DX·Y, to the
brackets of these, and so on (Marcotte, Gribonval & Peyré 2023, 2307.00144). Where one more level
adds no direction at a generic point, none after it does.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..programs._closure import Traced

#: Singular values of unit vectors below this are rounding, and above `_CLEAR` they are not.
_ROUNDING, _CLEAR = 1e-11, 1e-8

#: More vectors than there are dimensions to be found.
_SPARE = 8

#: Levels of brackets that are tried.
_DEEPEST = 5

Point = Float[Array, " size"]


class Algebra:
    """Random elements of the Lie algebra of ∇f_k, level by level."""

    def __init__(self, outputs: Traced, size: int, count: int):
        self.outputs, self.size, self.count = outputs, size, count

    def vectors(self, level: int, points: np.ndarray, seed: int) -> np.ndarray:
        """Random elements of a level at every point, (points, number, size).

        They are of length one, or zero where rounding alone is left of a bracket.
        """
        number = min(self.size + _SPARE, self.count) if level == 0 else self.size
        rng = np.random.default_rng((seed, level))
        weights = jnp.asarray(rng.normal(size=(number, level + 1, self.count)))
        units = []
        for point in points:
            found, scale = map(np.asarray, _elements(self.outputs, jnp.asarray(point), weights))
            norms = np.linalg.norm(found, axis=-1)
            none = norms <= _CLEAR * scale
            units.append(np.where(none[:, None], 0.0, found / np.where(none, 1.0, norms)[:, None]))
        return np.array(units)

    def dimensions(self, points: np.ndarray, seed: int, most: int) -> tuple[int, ...]:
        """Rank with the brackets of each level: up to `most`, or until one level adds nothing.

        **Raises:** ValueError where a rank cannot be decided, or the levels do not come to an end.
        """
        found, ranks = np.zeros((len(points), 0, self.size)), []
        for level in range(_DEEPEST + 1):
            found = np.concatenate([found, self.vectors(level, points, seed)], axis=1)
            ranks.append(self._rank(found))
            if ranks[-1] >= most or (level and ranks[-1] == ranks[-2]):
                return tuple(ranks)
        raise ValueError(
            f"Brackets of level {_DEEPEST} still add directions: {self.count} outputs say too "
            f"little of {self.size} weights. Let `outputs` have more examples."
        )

    def _rank(self, vectors: np.ndarray) -> int:
        values = np.linalg.svdvals(vectors)
        largest = np.max(values)
        ranks = set(np.sum(values > _CLEAR * largest, axis=-1).tolist())
        doubtful = (values > _ROUNDING * largest) & (values < _CLEAR * largest)
        if not largest > 0.0 or np.any(doubtful) or len(ranks) > 1:
            raise ValueError(
                "How many directions the gradients span cannot be decided: some of their singular "
                f"values are near rounding, and ranks at random points are {sorted(ranks)}. Let "
                "`outputs` have other examples, of size one."
            )
        return ranks.pop()


@eqx.filter_jit
def _elements(
    outputs: Traced, x: Point, weights: Float[Array, "number level outputs"]
) -> tuple[Float[Array, "number size"], Float[Array, " number"]]:
    """Elements of the algebra, and the size of what each is the sum of."""

    def one(rows: Float[Array, "level outputs"]) -> tuple[Point, Float[Array, ""]]:
        parts = jnp.stack(_parts(outputs, rows)(x))
        return jnp.sum(parts, axis=0), jnp.max(jnp.linalg.norm(parts, axis=1))

    return jax.vmap(one)(weights)


def _parts(
    outputs: Traced, weights: Float[Array, "level outputs"]
) -> Callable[[Point], list[Point]]:
    """The two parts of [X₁, [X₂, … ]], of the fields of each row; of one row the field."""
    first = jax.grad(lambda x: jnp.vdot(weights[0], outputs(x)))
    if len(weights) == 1:
        return lambda x: [first(x)]
    inner = _parts(outputs, weights[1:])

    def rest(x: Point) -> Point:
        return jnp.sum(jnp.stack(inner(x)), axis=0)

    def both(x: Point) -> list[Point]:
        along, back = first(x), rest(x)
        return [jax.jvp(rest, (x,), (along,))[1], -jax.jvp(first, (x,), (back,))[1]]

    return both
