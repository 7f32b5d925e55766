"""What was found in a data set: findings, faults and the report before training."""
