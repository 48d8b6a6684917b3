"""Layer 6: generated source to importable modules."""
