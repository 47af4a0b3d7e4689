"""Two words that mean something only together: sequences labelled by their co-occurrence."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..objectives._margin import MarginLoss
from ._task import check_count, floats, generator

#: Of six examples: with both words, with the first alone, the second alone, with neither.
_SHARES = (3, 1, 1, 1)
#: Which of the words 0 and 1 an example of each kind has.
_WORDS = ((0, 1), (0,), (1,), ())


class CoOccurrence(eqx.Module):
    """Sequences of orthonormal tokens, labels ±1, and of which of the four kinds each is.

    `tokens`: the numbers of the tokens, of which 0 and 1 are the words that are to occur together
    and 2 is in every sequence; `kinds`: 0 both words (label +1), 1 the first alone, 2 the second
    alone, 3 neither (label −1).
    """

    inputs: Float[Array, "n length d"]
    labels: Float[Array, " n"]
    tokens: Int[Array, "n length"]
    kinds: Int[Array, " n"]

    @property
    def objective(self) -> MarginLoss:
        """(1/n) Σ_i log(1 + exp(−y_i f(X_i)))."""
        return MarginLoss(self.inputs, self.labels, loss="logistic")

    @property
    def words(self) -> Float[Array, "3 d"]:
        """μ₁, μ₂ and μ₃."""
        return jnp.eye(self.inputs.shape[-1], dtype=self.inputs.dtype)[:3]


def word_cooccurrence(
    n: int, length: int, d: int, *, key: PRNGKeyArray, distinct: bool = True
) -> CoOccurrence:
    r"""`n` sequences, half with both words (+1), a sixth with one, the other, or neither (−1).

    Tokens are the unit vectors of d dimensions. Every sequence holds μ₃, and μ₁ and μ₂ as its kind
    says, each once and at random places; the rest are irrelevant. With `distinct`
    no irrelevant token occurs twice in the data, as the theory takes it, for which
    d ≥ 3 + (n/6)(6 length − 11). Without, they are drawn anew for every sequence, where they
    differ: 60 sequences of 5 tokens in 64 dimensions, as published, can be had only so.

    **Raises:** ValueError for n that six does not divide, length < 3, too few dimensions.
    **Source:** Yang, Kailkhura, Wang, Liang 2024 (2410.09605).

    ```python
    task = gflow.tasks.word_cooccurrence(12, 5, 48, key=jax.random.key(0))
    model = gflow.models.PooledTransformer.small(48, 16, 32, log_epsilon=-2.3, key=key)
    gflow.simulate(model, task.objective, t1=100.0)
    ```
    """
    check_count("n", n, 6)
    check_count("length", length, 3)
    if n % 6:
        raise ValueError(f"n = {n}: the four kinds are 3, 1, 1, 1 of six; take a multiple of six.")
    kinds = np.repeat(np.arange(4), np.array(_SHARES) * (n // 6))
    free = np.array([length - 1 - len(_WORDS[kind]) for kind in kinds])
    needed = 3 + int(np.sum(free) if distinct else np.max(free))
    if d < needed:
        hint = " (distinct=False lets sequences share them)" if distinct else ""
        raise ValueError(
            f"d = {d}: {needed - 3} irrelevant tokens and three words need {needed} "
            f"dimensions{hint}."
        )
    rng = generator(key)
    fresh = 3 + rng.permutation(d - 3)
    rows = []
    for kind, count in zip(kinds, free, strict=True):
        if distinct:
            others, fresh = fresh[:count], fresh[count:]
        else:
            others = 3 + rng.choice(d - 3, count, replace=False)
        rows.append(rng.permutation(np.concatenate([[2], _WORDS[kind], others]).astype(int)))
    tokens = np.stack(rows)
    labels = np.where(kinds == 0, 1.0, -1.0)
    return CoOccurrence(
        floats(np.eye(d)[tokens]), floats(labels), jnp.asarray(tokens), jnp.asarray(kinds)
    )
