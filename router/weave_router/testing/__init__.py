"""Fakes of the doors, for this component's tests and its sisters'."""
