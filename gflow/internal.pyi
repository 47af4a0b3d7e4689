"""What `theory`, benchmarks and papers of other people may rely on, beside the public names."""

from ._alpha import (
    log_alpha_or_none as log_alpha_or_none,
    one_log_alpha as one_log_alpha,
)
from ._arguments import (
    count as count,
    instance as instance,
    number as number,
)
from ._blas import one_thread as one_thread
from ._display import (
    Displayed as Displayed,
    Summary as Summary,
    Table as Table,
    power_of_ten as power_of_ten,
    span as span,
)
from ._eager import (
    eager as eager,
    on_device as on_device,
)
from ._progress import (
    Bar as Bar,
    Stream as Stream,
)
from ._side_by_side import side_by_side as side_by_side
from ._stacking import (
    member as member,
    stacked as stacked,
)
from ._svd import (
    least_squares as least_squares,
    svd as svd,
)
from ._time_unit import (
    tau_label as tau_label,
    time_unit as time_unit,
    unit_name as unit_name,
)
from .coordinates._gauge import (
    clearing as clearing,
    column_velocity as column_velocity,
    pulled as pulled,
)
from .coordinates._jacobi import orthogonal as orthogonal
from .coordinates._record import LeafRecord as LeafRecord
from .coordinates._units import Binding as Binding, UnitAxes as UnitAxes
from .flow._build import (
    build_flow as build_flow,
    check_single as check_single,
)
from .flow._decay import (
    Decay as Decay,
)
from .flow._flow import (
    Flow as Flow,
    Objective as Objective,
)
from .flow._order import order_of as order_of
from .flow._prepare import (
    elapsed_time as elapsed_time,
    log_alpha_of as log_alpha_of,
)
from .integrate._bars import (
    error_bar as error_bar,
)
from .integrate._binding import bindings as bindings
from .integrate._field import (
    Field as Field,
    Pace as Pace,
    Unframed as Unframed,
)
from .integrate._march import (
    TERM as TERM,
    march as march,
)
from .integrate._recorder import (
    KEPT as KEPT,
)
from .integrate._resting import Resting as Resting
from .integrate._round import (
    divide as divide,
    united as united,
)
from .integrate._run import (
    ATTEMPTS as ATTEMPTS,
    Rounds as Rounds,
)
from .kinks._switches import (
    find_switches as find_switches,
)
from .kinks._treatments import (
    Beside as Beside,
)
from .parameters._base import (
    Constant as Constant,
    leaf_name as leaf_name,
    trained_leaves as trained_leaves,
)
from .parameters._factored import (
    PlainFactors as PlainFactors,
)
from .results._crossings import (
    Crossing as Crossing,
    Quantity as Quantity,
    Rise as Rise,
    bracketed_root as bracketed_root,
    crossings as crossings,
    first_crossing as first_crossing,
    first_rise as first_rise,
)
from .results._fingerprint import (
    Fingerprint as Fingerprint,
    Origin as Origin,
    probe_weights as probe_weights,
    start_factors as start_factors,
    summary as summary,
)
from .results._heading import angle as angle
from .results._labels import (
    Coordinate as Coordinate,
    coordinate_label as coordinate_label,
    rank_label as rank_label,
    switch_label as switch_label,
)
from .results._stages import (
    active_weights as active_weights,
)
from .results._storage import (
    versions as versions,
)
