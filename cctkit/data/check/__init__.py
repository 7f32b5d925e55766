"""What `cctkit check` looks for in a data set."""
