from . import (
    coordinates as coordinates,
    depth as depth,
    doctor as doctor,
    internal as internal,
    models as models,
    objectives as objectives,
    observables as observables,
    plot as plot,
    save as save,
    solvers as solvers,
    stop as stop,
    symmetry as symmetry,
    tasks as tasks,
    velocity as velocity,
)
from ._central_flow import central_flow as central_flow
from ._cite import Citation as Citation, cite as cite
from ._descend import descend as descend
from ._escape import escape as escape
from ._sharpness import sharpness as sharpness
from ._simulate import simulate as simulate
from ._simulate_batch import simulate_batch as simulate_batch
from ._version import __version__ as __version__
from .integrate._status import Status as Status
from .parameters._base import (
    Frozen as Frozen,
    Parameter as Parameter,
    Trainable as Trainable,
    rescale as rescale,
    to_factors as to_factors,
)
from .parameters._factored import Factored as Factored, Product as Product
from .parameters._hadamard import Hadamard as Hadamard
from .parameters._scaled import Scaled as Scaled
from .parameters._symmetric import Symmetric as Symmetric
from .results._alignment import AlignedStages as AlignedStages, align_stages as align_stages
from .results._batch import Batch as Batch
from .results._trajectory import Passage as Passage, Trajectory as Trajectory
from .sweeps._opened import Sweep as Sweep, open_sweep as open_sweep
from .sweeps._progress import SweepProgress as SweepProgress
from .sweeps._sweep import sweep as sweep
