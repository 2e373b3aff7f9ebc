"""Loading of artefacts from disk, and the models in service."""
