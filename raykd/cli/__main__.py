"""`python -m raykd.cli` is `raykd`."""

from raykd.cli import main

main()
