"""The command ``resnext-bench`` and its subcommands."""
