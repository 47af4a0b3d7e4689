"""How a weight is parameterised: leaves of a model that know their coordinates near zero."""
