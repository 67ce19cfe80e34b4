"""The program: command line, daemon, HTTP API, status views and state file."""
