"""The data plane: MAC table, forwarding decisions, TAP, UDP socket, and the loop that moves bursts between them."""
