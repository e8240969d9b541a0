"""Images: preprocessing, sources of labelled and unlabelled images, and seeded pixels."""
