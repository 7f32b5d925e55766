"""The page of `cctkit inspect`: everything that is known about a run, in one HTML file."""
