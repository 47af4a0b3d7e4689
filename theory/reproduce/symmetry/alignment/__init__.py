"""How representations and their gradients come to be aligned."""
