"""One benchmark on many machines: a plan of groups, their runs, and what they say together."""
