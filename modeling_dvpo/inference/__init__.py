"""A trained critic at work: scores, rankings, the best of n, pruning, guided decoding, a pipeline."""
