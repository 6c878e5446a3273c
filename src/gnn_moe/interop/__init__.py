"""Models of other programs: checkpoints of the original implementation."""
