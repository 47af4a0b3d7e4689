from . import (
    assumptions as assumptions,
    condensation as condensation,
    cross_entropy as cross_entropy,
    depth_collapse as depth_collapse,
    exact_linear as exact_linear,
    gradual_rank as gradual_rank,
    heads as heads,
    hopfield as hopfield,
    linear_icl as linear_icl,
    odelora as odelora,
    plot as plot,
    post_training as post_training,
    remainder as remainder,
    saddle_to_saddle as saddle_to_saddle,
    symmetry as symmetry,
    token_reduction as token_reduction,
    two_layer_condensation as two_layer_condensation,
    weight_decay as weight_decay,
)
from ._closed_form import (
    Curve as Curve,
    Number as Number,
    Reading as Reading,
    from_weights as from_weights,
)
from ._extrapolate import extrapolate as extrapolate
from ._prediction import Prediction as Prediction
from ._stage import Level as Level, Stage as Stage
from .comparison._batch import BatchComparison as BatchComparison
from .comparison._compare import Comparison as Comparison, compare as compare
