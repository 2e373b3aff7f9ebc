"""Faults on purpose, and what must hold under them: python -m tests.faults, or make faults."""
