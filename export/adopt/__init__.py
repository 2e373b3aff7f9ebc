"""Adoption: from an ONNX file that somebody else exported to an artefact the service loads."""

from export.adopt.errors import AdoptError, AmbiguousError
from export.adopt.options import AdoptOptions
from export.adopt.pipeline import adopt_model

__all__ = ["AdoptError", "AdoptOptions", "AmbiguousError", "adopt_model"]
