r"""In-context learning of linear regression by attention: plateaus, clocks, closed forms.

Prompts x_1, y_1, …, x_N, y_N, x_q with x ~ N(0, Λ), y = wᵀx (+ noise of variance σ²), w ~ N(0, I):
linear attention predicts ŷ = βᵀM x_q, β = (1/N) Σ y_n x_n, and its loss depends on M alone
(`population_loss`). How M is made of weights decides the course from a small start:

    merged heads     M = Σ v_i U_i         a saddle of order two: one drop, after ln(1/ε)
    separate heads   M = Σ v_i K_iᵀQ_i     of order three: eigenvector by eigenvector, after 1/ε

Linear self-attention with all of its blocks is merged heads as long as every prompt has a task of
its own (`self_attention_limit`); a task that prompts share is learned in weights as well
(`shared_task`). Softmax heads are linear attention on centred pairs while key-query is small
(`softmax_linear_loss`).

**Clock.** All times are those of θ' = −½ ∂E(y − ŷ)²/∂θ (τ = 1 of the papers), which is flow time
under `gflow.objectives.InContextRegression(..., reduction="half_mean")`, its default. Under "mean"
the flow is twice as fast. Losses here are E(y − ŷ)², the papers', which "half_mean" halves.

**Basis.** Weights are in the eigenbasis of Λ = E diag(λ) Eᵀ: U ↦ EᵀUE, K and Q ↦ K E and Q E.

Papers: 2306.09927 (Zhang, Frei, Bartlett 2024), 2501.16265 (Zhang, Singh, Latham, Saxe 2025),
2504.12916 (Mainali, Teixeira 2025), 2503.12734 (He, Pan, Chen, Yang 2025).
"""

from ._conserved import (
    Conserved as Conserved,
    conserved as conserved,
    conserved_merged as conserved_merged,
)
from ._drops import (
    Drops as Drops,
    drops as drops,
    head_times as head_times,
)
from ._merged import (
    Merged as Merged,
    aligned_size as aligned_size,
    merged as merged,
    merged_from as merged_from,
    merged_white as merged_white,
)
from ._modes import modes as modes
from ._one_head import one_head as one_head
from ._plateaus import (
    plateaus as plateaus,
    population_loss as population_loss,
)
from ._predict import predict as predict
from ._self_attention import (
    SelfAttentionLimit as SelfAttentionLimit,
    self_attention_limit as self_attention_limit,
)
from ._shared_task import (
    SharedTask as SharedTask,
    shared_task as shared_task,
)
from ._softmax import (
    SoftmaxOptimum as SoftmaxOptimum,
    softmax_creep as softmax_creep,
    softmax_linear_loss as softmax_linear_loss,
    softmax_optimum as softmax_optimum,
)
