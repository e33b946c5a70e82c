"""The training engine: plan, loop, checkpoints, guard."""
