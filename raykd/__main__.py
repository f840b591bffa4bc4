"""`python -m raykd` is `raykd`, as people try where a package has a command."""

from raykd.cli import main

main()
