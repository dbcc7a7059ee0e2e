"""`python -m cli` is the `trimtab` command."""

from cli.main import main

main()
