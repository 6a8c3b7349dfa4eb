"""``python -m mcdo``: the command line."""

import sys

from mcdo.cli import main

sys.exit(main())
