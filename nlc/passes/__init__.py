"""Layer 4: the stages. The public function of ``passes/x.py`` is ``x``."""
