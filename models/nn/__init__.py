"""Building blocks that several papers and baselines share."""
