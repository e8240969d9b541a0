"""The sections of a page of a search. `section(record)` of each is None if the record lacks it."""
