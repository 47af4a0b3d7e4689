"""Words that mean something together: how attention and the layer before it learn."""
