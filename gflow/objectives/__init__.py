"""Scalar losses of a model: functions of its effective weights, without decay."""

from ._cross_entropy import CrossEntropy as CrossEntropy
from ._in_context import InContextRegression as InContextRegression
from ._margin import MarginLoss as MarginLoss
from ._quadratic import QuadraticLoss as QuadraticLoss
from ._shared_task import SharedTaskRegression as SharedTaskRegression
from ._softmax_context import SoftmaxContextRegression as SoftmaxContextRegression
from ._squared import SquaredLoss as SquaredLoss
