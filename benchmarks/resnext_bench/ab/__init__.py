"""Two arms against each other: each in its own process, one visit at a time, in turn."""
