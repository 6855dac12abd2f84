"""Fine-tuning: optimizers, schedules and the loop around `compile` and `fit`."""
