"""Layer 2: text to tree."""
