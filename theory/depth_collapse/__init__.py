r"""Tokens that become equal with depth, at fixed weights: what papers predict of layers.

Tokens are rows of X (n, d). ‖res‖ is the Frobenius norm of X less its mean token, n tokens of
which are `correlation` ρ apart: ρ = 1 where all are equal. `theory.condensation` is about rank
collapse of the weights over training time; the centred scatter of the tokens is in both.

```python
from theory import depth_collapse

depth_collapse.correlation(100, 16, 0.1)           # 0.0963: residuals of 1/√L keep tokens apart
depth_collapse.correlation(100, 16, 1.0)           # 1.0000
depth_collapse.overlap_time(6, 2.0, 0.9)           # 2.762096361922
```
"""

from ._energy import (
    energy as energy,
    energy_rate as energy_rate,
    token_velocity as token_velocity,
)
from ._equal_overlap import (
    equal_overlap as equal_overlap,
    final_rate as final_rate,
    overlap_time as overlap_time,
)
from ._logit_scale import (
    attention_correlation as attention_correlation,
    block_correlation as block_correlation,
    critical_beta as critical_beta,
    participation as participation,
)
from ._normalisation import (
    layer_norm_rank as layer_norm_rank,
    orthogonality_bound as orthogonality_bound,
    orthogonality_gap as orthogonality_gap,
)
from ._pure_attention import (
    cubic_residual as cubic_residual,
    log_cubic_factor as log_cubic_factor,
    log_residual_bound as log_residual_bound,
)
from ._uniform import (
    Norms as Norms,
    correlation as correlation,
    norms as norms,
    query_gradient as query_gradient,
    value_gradient as value_gradient,
)
