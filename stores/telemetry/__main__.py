"""``python -m stores.telemetry ROOT`` compacts what is finished below ROOT, beside whoever writes there."""

from __future__ import annotations

import sys
from pathlib import Path

from stores.telemetry.compactor import main

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("say the folder: python -m stores.telemetry ROOT")
    sys.exit(main(Path(sys.argv[1])))
