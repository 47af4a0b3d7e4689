r"""What theory reads off a model: balance, gap, alignment, spectra, ranks, margins and angles.

Each function takes the name of a leaf, or an objective, and returns a function of the model, to be
recorded along a run or applied to any model (`traj.final`, a stage's):

```python
from gflow import observables

watched = {"balance": observables.balance("kq"), "gap": observables.gap("kq")}
run = gflow.simulate(model, objective, t1=10.0, observables=watched)
run.observables["gap"], run.error["gap"]
observables.stable_rank("kq")(run.final)
```

They are functions of plain floats: what lies below the float range is 0 in them, and the
logarithms that a run records of its own (`kq.log_singular`) reach farther.
"""

from ._direction import (
    HasMargins as HasMargins,
    Margin as Margin,
    angle as angle,
    margin as margin,
    normalised_margin as normalised_margin,
)
from ._leaf import (
    Observable as Observable,
    alignment as alignment,
    balance as balance,
    effective_rank as effective_rank,
    gap as gap,
    norm as norm,
    spectrum as spectrum,
    stable_rank as stable_rank,
)
