"""The same of the weights of trained transformers."""
