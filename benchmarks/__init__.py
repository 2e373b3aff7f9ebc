"""Benchmarks: the main figures are ratios to a reference that is measured in the same run."""
