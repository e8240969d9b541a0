"""Units of work on many workers: processes of this machine, or actors of a Ray cluster."""
