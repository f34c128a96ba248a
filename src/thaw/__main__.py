"""`python -m thaw` is the command `thaw`."""

from thaw.cli import main

main()
