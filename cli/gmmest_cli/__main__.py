"""``python -m gmmest_cli``."""

from gmmest_cli.main import main

main()
