"""Requests of every operation, and the answers that were recorded for them: `python -m tests.recorded --help`."""
