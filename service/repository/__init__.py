"""Artefacts on disk → models in service."""
