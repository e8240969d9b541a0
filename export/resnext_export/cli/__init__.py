"""The command resnext-export and its subcommands."""
