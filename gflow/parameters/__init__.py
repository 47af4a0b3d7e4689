"""How a weight is parameterised: leaves of a model that know their coordinates near zero."""

from ..programs._kept import keep_programs

# before anything of gflow is compiled
keep_programs()
