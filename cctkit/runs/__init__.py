"""The run directory: its files, predictions and the comparison of runs."""
