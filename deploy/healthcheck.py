"""The container's health check: exit status 0 while the pod on this machine takes requests. Standard library only."""

import os
import sys
from http.client import HTTPConnection, HTTPException

_TIMEOUT_S = 4

# Where all of this machine's addresses are listened on.
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, and not bound


def main() -> int:
    """Ask /readyz where the service listens."""
    host, port = os.environ.get("HOST", "").strip(), os.environ.get("PORT", "").strip()
    connection = HTTPConnection(_LOOPBACK.get(host, host), int(port or 8000), timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
