"""The Open Inference Protocol v2 over REST, with Triton's extensions for sequences and binary tensors."""
