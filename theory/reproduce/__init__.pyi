from . import style as style
from ._experiment import Experiment as Experiment
from ._report import Finding as Finding, Report as Report
from .scales import (
    Convergence as Convergence,
    Runs as Runs,
    Scales as Scales,
    compare_scales as compare_scales,
    convergence as convergence,
    offsets as offsets,
)
from .seeds import Interval as Interval, interval as interval, signed as signed
