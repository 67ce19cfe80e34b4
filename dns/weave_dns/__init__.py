"""weaveDNS: names of containers, gossiped between peers, and the name server on every host."""
