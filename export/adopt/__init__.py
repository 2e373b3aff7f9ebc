"""Adoption: from an ONNX file that somebody else exported to an artefact the service loads."""

from export.adopt.errors import AdoptError, AmbiguousError
from export.adopt.pipeline import adopt_model
from export.adopt.wishes import Wishes

__all__ = ["AdoptError", "AmbiguousError", "Wishes", "adopt_model"]
