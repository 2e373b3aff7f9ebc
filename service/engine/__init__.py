"""The engine: who runs together, in which slots, in one onnxruntime run. It knows no session."""
