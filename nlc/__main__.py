"""``python -m nlc`` is ``nlc``."""

from nlc.cli import main

main()
