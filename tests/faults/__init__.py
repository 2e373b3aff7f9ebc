"""Fault injection tests of the running service: python -m tests.faults, or make faults."""
