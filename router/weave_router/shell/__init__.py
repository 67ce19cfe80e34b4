"""The thin trio layer: network door, connection actors, timers, and the router that wires all parts together."""
