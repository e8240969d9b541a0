"""Our times against the peers' own tools: the same bytes, settings and rounds."""
