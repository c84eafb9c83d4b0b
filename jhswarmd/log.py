"""Logging: one line for each event, for people (``text``) or for machines (``json``).

Lines put the event first and then ``key=value`` pairs. Nothing here may ever be handed the bytes
of a secret; there is no filter that would save a careless caller.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        entry = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(level: str = "INFO", style: str = "text") -> None:
    """Send all records of ``level`` and above to standard error, as ``text`` or ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Its debug lines hold request bodies, and with them the content of secrets.
    for noisy in ("urllib3", "docker", "requests"):
        logging.getLogger(noisy).setLevel(logging.INFO)


def event(message: str, **facts: Any) -> str:
    """Return ``message key=value ...``; values with spaces are quoted."""
    pairs = (
        f'{key}="{value}"' if " " in str(value) or str(value) == "" else f"{key}={value}"
        for key, value in facts.items()
    )
    return " ".join((message, *pairs))
