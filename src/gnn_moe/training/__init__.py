"""Fitting a model: device, optimiser and schedule, the loop, evaluation, checkpoints and the record of a run."""
