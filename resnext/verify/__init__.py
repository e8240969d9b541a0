"""Whether a candidate computes the same function, in the requested precision."""
