"""`python -m maerestore` is `maerestore`."""

import sys

from maerestore.cli.main import main

sys.exit(main())
