"""The router: peers, gossip, topology and routes; MAC learning, overlays and the data plane."""
