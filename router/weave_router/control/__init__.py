"""The control plane without I/O: topology, routes, gossip, connection targets, and the mesh that joins them."""
