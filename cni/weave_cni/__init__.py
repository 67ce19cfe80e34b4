"""The CNI plugins of Weave Net: what container runtimes run, and what the daemon does for them."""
