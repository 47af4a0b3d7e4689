r"""Symmetries of a model's parameters: what its flow conserves, and how a symmetric state is left.

```python
from gflow import symmetry

seen = lambda model: jax.vmap(model)(inputs)                # what a loss sees of the model
laws = symmetry.conservation_laws(model, seen)              # as many as there are, and which
run = gflow.simulate(model, objective, t1=10.0, observables={"laws": laws})
symmetry.drift(run, "laws")                                 # how far each has moved, and its bar

off = symmetry.breaking(model, objective, swap_the_heads)   # a symmetric state at rest
off.rates, off.time(start=1e-6, level=1e-2)
```
"""

from ._breaking import (
    Breaking as Breaking,
    breaking as breaking,
)
from ._laws import (
    Drift as Drift,
    Law as Law,
    Laws as Laws,
    conservation_laws as conservation_laws,
    drift as drift,
)
