"""The sleeve overlay without I/O: packet codec, ciphers, replay window, path MTU search, link state machine."""
