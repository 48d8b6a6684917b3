"""Layer 5: Program -> source text. Backends see the program and the IR, never the text of a spec or a pass."""
