"""Search of hyperparameters by blocked validation."""
