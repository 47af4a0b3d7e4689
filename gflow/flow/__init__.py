"""The vector field of a model: its leaves, loss, decay and observables, checked and traced once."""
