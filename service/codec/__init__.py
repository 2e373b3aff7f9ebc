"""Conversion between bytes and tensors, as a model's card specifies them."""
