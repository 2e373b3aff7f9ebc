"""Attacks that try to keep other clients waiting, and how long these wait meanwhile."""
