"""Addresses without a central store: a ring of tokens merged by gossip (ipam.md)."""
