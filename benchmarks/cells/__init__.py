"""Take every cell of the table through training, export, service and clock: `python -m benchmarks.cells`."""
