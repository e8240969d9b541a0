"""The sections of a page of a run. `section(run)` of each is None if the run lacks its data."""
