"""Layer 6: what people look at: derivations, drawings."""
