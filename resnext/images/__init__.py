"""Images: preprocessing, sources of labeled and unlabeled images, and seeded pixels."""
