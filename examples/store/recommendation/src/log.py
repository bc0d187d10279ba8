"""Lines on standard output, one JSON object each. A line never holds a query: it may name a session."""

import json
import sys
from datetime import datetime, timezone


def write(level: str, message: str, **fields) -> None:
    """Writes one line; `fields` follow `time`, `level` and `message`."""
    time = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps({"time": time, "level": level, "message": message, **fields})
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        # A reader that has gone away must not end the service.
        pass
