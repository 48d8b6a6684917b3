"""Layer 3: the library of functions and memories. The library of rules is ``specs/``."""
