"""Layer 0: source positions and diagnostics. Imports nothing of ours."""
