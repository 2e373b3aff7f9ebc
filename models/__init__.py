"""Recurrent cells, networks built from them, and the model card of an exported network."""
