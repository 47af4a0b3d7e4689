"""What tells tokens apart, layer by layer, before and after training."""
