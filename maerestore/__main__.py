"""`python -m maerestore` is `maerestore`."""

from maerestore.cli.process import run

run()
