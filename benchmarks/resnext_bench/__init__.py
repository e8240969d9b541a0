"""Session to measurement to report. Command: ``resnext-bench``."""
