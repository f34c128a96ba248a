"""`python -m thaw` is the command `thaw`."""

from thaw.cli.app import main

main()
