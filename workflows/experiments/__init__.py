"""Luigi tasks that train, evaluate and compare models."""
