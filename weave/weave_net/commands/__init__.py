"""The subcommands of `weave`, some to a module; `weave_net.cli.COMMANDS` says which is where."""
