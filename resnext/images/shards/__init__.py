"""Pictures in shards: units of work small enough to repeat and large enough to be worth a start."""
