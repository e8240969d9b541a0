"""Where the time of one run goes: by layer, by stage, against the floor."""
