"""The engine: which chunks run together, in which slots, in one onnxruntime run. It knows no session."""
