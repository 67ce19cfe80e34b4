"""Docker and Podman: their API, and the network and IPAM plugin for Docker."""
