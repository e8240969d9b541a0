"""The best artifact for this machine: candidates, gates, a race over interleaved rounds."""
