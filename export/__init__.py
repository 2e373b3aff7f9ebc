"""Export: from a trained network to the one file the service loads. Offline only: torch and onnx live here."""

from export.artefact import read_card
from export.errors import ExportError, ParityError, TargetExistsError
from export.pipeline import export_network

__all__ = ["ExportError", "ParityError", "TargetExistsError", "export_network", "read_card"]
