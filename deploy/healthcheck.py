"""The container's health check: exit status 0 while the pod on this machine takes requests. Standard library only."""

import os
import sys
from http.client import HTTPConnection, HTTPException

_TIMEOUT_S = 4


def main() -> int:
    """Ask /readyz on the port that the service listens on."""
    connection = HTTPConnection("127.0.0.1", int(os.environ.get("PORT") or 8000), timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
