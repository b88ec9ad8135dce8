"""A forward pass through a checkpoint that never holds it: layer by layer, and of the experts only those that were chosen."""
