r"""What theory reads off a model: balance, gap, alignment, spectra, ranks, margins and angles.

Each function takes the name of a leaf, a product of the heads of an attention, or an objective, and
returns a function of the model, to be recorded along a run or applied to any model (`traj.final`, a
stage's):

```python
from gflow import observables

watched = {"balance": observables.balance("kq"), "gap": observables.gap("kq")}
run = gflow.simulate(model, objective, t1=10.0, observables=watched)
run.observables["gap"], run.error["gap"]
observables.stable_rank("kq")(run.final)

change = observables.value_output("layers.0.attention", since=model)      # (heads, d, d)
watched = {"ranks": observables.numerical_rank(change, 0.01)}
```

They are functions of plain floats: what lies below the float range is 0 in them, and the
logarithms that a run records of its own (`kq.log_singular`) reach farther.
"""

from ._angles import principal_angles as principal_angles
from ._direction import (
    HasMargins as HasMargins,
    Margin as Margin,
    angle as angle,
    margin as margin,
    normalised_margin as normalised_margin,
)
from ._entropy import attention_entropy as attention_entropy
from ._leaf import (
    Observable as Observable,
    alignment as alignment,
    balance as balance,
    effective_rank as effective_rank,
    gap as gap,
    norm as norm,
    nuclear_excess as nuclear_excess,
    numerical_rank as numerical_rank,
    spectrum as spectrum,
    stable_rank as stable_rank,
)
from ._products import (
    Product as Product,
    key_query as key_query,
    value_output as value_output,
)
