"""``python -m proxy.control``: the optimizer process, started by the supervisor."""

import sys

from proxy.control.boot import main

if __name__ == "__main__":
    sys.exit(main())
