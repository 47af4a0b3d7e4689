"""Exact gradient flow of small models from tiny initialisations."""

from . import (
    models as models,
    objectives as objectives,
    plot as plot,
    solvers as solvers,
    tasks as tasks,
)
from .alignment import AlignedStages as AlignedStages, align_stages as align_stages
from .batch import Batch as Batch, simulate_batch as simulate_batch
from .descent import descend as descend
from .escape import Escape as Escape, escape as escape
from .factored import Factored as Factored, Product as Product
from .hadamard import Hadamard as Hadamard
from .parameters import (
    Frozen as Frozen,
    Parameter as Parameter,
    Scaled as Scaled,
    Trainable as Trainable,
    rescale as rescale,
    to_factors as to_factors,
)
from .simulate import simulate as simulate
from .status import Status as Status
from .trajectory import Trajectory as Trajectory
