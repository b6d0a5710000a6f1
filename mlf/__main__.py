"""`python -m mlf`."""

from mlf.cli import main

main()
