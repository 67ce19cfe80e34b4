"""What travels on the control connection: gob, handshake, session, features, gossip envelopes, topology payloads."""
