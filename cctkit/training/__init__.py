"""Training: device policy, optimizer, step, loop, checkpoints."""
