"""Fakes for this component's tests and its sisters': a router without a network, a daemon without a host."""
