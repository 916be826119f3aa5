"""The symbolic layer's client (placeholder until its worker exists)."""
