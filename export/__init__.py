"""Export: from a trained network to the one file the service loads. Offline only: torch and onnx are used here."""

from export.artefact import read_card
from export.errors import DestinationExistsError, ExportError, ParityError
from export.options import ExportOptions
from export.pipeline import export_network

__all__ = ["DestinationExistsError", "ExportError", "ExportOptions", "ParityError", "export_network", "read_card"]
