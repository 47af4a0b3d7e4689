r"""Tokens followed through layers, or through continuous depth, at weights that stay.

Tokens that become equal are kept as their mean and, apart from it, a direction and a logarithm of
what tells them apart (`Tokens`): attention alone cubes that from layer to layer, and the third
layer is already below the floats of X. Blocks act on `Tokens`; a function of arrays (tokens, d) is
a block as well (`Plain` says how far it sees).

```python
from gflow import depth

attention = depth.Attention(jnp.eye(4), jnp.eye(4), jnp.eye(4))
run = depth.follow(depth.Repeated(attention, 100), X)
run.observables["log_residual"]                    # to −10⁴⁷, by threes

def make(key):                                     # weights of a fresh layer
    return depth.Residual(depth.Average(jax.random.normal(key, (4, 4)) / 2), 0.1)

run = depth.follow(depth.Fresh(make, 1000), X, key=jax.random.key(0), draws=64)
run.mean("correlation"), run.interval("correlation")
```

A block of one's own takes `Tokens` to `Tokens` by what they offer, `tokens @ weight`, sums,
multiples, `depth.attend`, `depth.pointwise`:

```python
class Gated(depth.Block):
    value: jax.Array
    gate: jax.Array

    def __call__(self, tokens):
        mixed = depth.attend(tokens, tokens, tokens @ self.value, scale=0.5)
        return tokens + mixed + 0.1 * depth.pointwise(jnp.tanh, tokens @ self.gate)
```
"""

from ._attend import Scores as Scores, attend as attend, scores as scores
from ._attention import (
    Attention as Attention,
    Average as Average,
    HiddenScores as HiddenScores,
)
from ._blocks import (
    MLP as MLP,
    Block as Block,
    Chain as Chain,
    Linear as Linear,
    Recurrent as Recurrent,
    Residual as Residual,
)
from ._flow import DepthFlow as DepthFlow, OnSphere as OnSphere, flow as flow
from ._follow import follow as follow
from ._merge import Merge as Merge, MergeSimilar as MergeSimilar
from ._models import layers_of as layers_of
from ._networks import Fresh as Fresh, Repeated as Repeated
from ._norms import BatchNorm as BatchNorm, LayerNorm as LayerNorm
from ._observables import (
    attention_entropy as attention_entropy,
    attention_weights as attention_weights,
    correlation as correlation,
    effective_rank as effective_rank,
    head_entropies as head_entropies,
    log_apart as log_apart,
    log_norm as log_norm,
    log_residual as log_residual,
    orthogonality_gap as orthogonality_gap,
    participation as participation,
)
from ._plain import Plain as Plain
from ._pointwise import pointwise as pointwise
from ._run import DepthRun as DepthRun
from ._tokens import Tokens as Tokens
