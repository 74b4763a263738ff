"""`python -m tui` is `lora-tui`."""

import sys

from tui.cli import main

sys.exit(main())
