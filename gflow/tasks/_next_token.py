"""Next tokens that one token of a sentence decides: which, the last token says."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..objectives._cross_entropy import CrossEntropy
from ._task import check_count, floats, generator


class NextToken(eqx.Module):
    """Pairs (`next`), sentences, their next tokens, and the tokens that decide them.

    `next[x]`: what follows the token x; `order[q]`: the vocabulary in the order that a sentence
    ending in q goes by, first the best; `optimal`: where in each sentence its best token stands.
    """

    tokens: Int[Array, "n length"]
    labels: Int[Array, " n"]
    optimal: Bool[Array, "n length"]
    next: Int[Array, " vocabulary"]
    order: Int[Array, "vocabulary vocabulary"]

    @property
    def inputs(self) -> Float[Array, "n length vocabulary"]:
        """The sentences as unit vectors."""
        return floats(jnp.eye(len(self.next))[self.tokens])

    @property
    def objective(self) -> CrossEntropy:
        """Of the sentences: nats of the next token."""
        return CrossEntropy(self.inputs, self.labels)

    @property
    def pairs(self) -> CrossEntropy:
        """Of sentences of one token each: what follows every token."""
        return CrossEntropy(floats(jnp.eye(len(self.next))[:, None, :]), self.next)

    @property
    def constraints(self) -> Float[Array, "rows vocabulary vocabulary"]:
        r"""(x − x')qᵀ of all sentences: x the optimal token, x' any other of it, q its last.

        ⟨(x − x')qᵀ, W_KQ⟩ > 0 for all of them is attention to the optimal tokens.
        """
        unit, rows = np.eye(len(self.next)), []
        for sentence, best in zip(np.asarray(self.tokens), np.asarray(self.optimal), strict=True):
            x = sentence[best][0]
            rows += [(x, other, sentence[-1]) for other in np.unique(sentence[~best])]
        x, other, q = np.unique(np.array(rows), axis=0).T
        return floats((unit[x] - unit[other])[:, :, None] * unit[q][:, None, :])


def next_token(vocabulary: int, n: int, length: int, *, key: PRNGKeyArray) -> NextToken:
    r"""`n` random sentences whose next token follows the best of theirs, in the last one's order.

    A permutation says what follows each token, and every token q has an order of the vocabulary. In
    a sentence that ends in q the token that comes first in this order is *optimal*, and the next
    token is what follows it. Sentences have at least two different tokens. The sentences can be
    learned: W_OV from the pairs, W_KQ from the orders, column by column.

    **Raises:** ValueError for counts below 2 (n: 1). **Source:** Huang, Liang, Yang 2024
    (2409.17335): collocations and query-dependent orders, here total ones.

    ```python
    task = gflow.tasks.next_token(8, 40, 5, key=jax.random.key(0))
    task.pairs, task.objective                # of both stages
    ```
    """
    check_count("vocabulary", vocabulary, 2)
    check_count("n", n, 1)
    check_count("length", length, 2)
    rng = generator(key)
    follows = rng.permutation(vocabulary)
    order = np.stack([rng.permutation(vocabulary) for _ in range(vocabulary)])
    place = np.argsort(order, axis=1)  # of the token x in the order of q
    rows = rng.integers(vocabulary, size=(n, length))
    while (same := np.all(rows == rows[:, :1], axis=1)).any():
        rows[same] = rng.integers(vocabulary, size=(int(same.sum()), length))
    places = np.take_along_axis(place[rows[:, -1]], rows, axis=1)
    first = np.min(places, axis=1)
    best = order[rows[:, -1], first]
    return NextToken(
        jnp.asarray(rows),
        jnp.asarray(follows[best]),
        jnp.asarray(places == first[:, None]),
        jnp.asarray(follows),
        jnp.asarray(order),
    )
