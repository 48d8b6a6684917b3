"""Layer 1: the data that passes exchange. No policy."""
