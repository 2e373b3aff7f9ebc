"""Chains: artefacts, ONNX files and torch functions, fused into one artefact with the states of all."""

from export.chain.errors import ChainError
from export.chain.pipeline import chain_models

__all__ = ["ChainError", "chain_models"]
