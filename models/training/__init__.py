"""Training: data of a run, optimiser, loop, checkpoints and the run folder."""
