"""Where the executables leave calls that no daemon takes: a folder of the run directory."""

PENDING = "cni-pending"
