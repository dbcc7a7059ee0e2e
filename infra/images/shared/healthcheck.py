"""Whether a service in this container answers: `python healthcheck.py PORT PATH`. Ends with 0 or 1, for HEALTHCHECK."""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException


def main(arguments: list[str]) -> int:
    """Ask once. PORT may be the name of a variable that holds it."""
    port, path = arguments
    connection = HTTPConnection("127.0.0.1", int(os.environ.get(port, port)), timeout=2)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        print(f"{path} does not answer: {error}")
        return 1
    print(f"{path} answers {status}")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
