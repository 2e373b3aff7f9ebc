"""Bytes ↔ tensors, as a model's card describes them."""
