"""Two stored runs against each other, made at different times."""
