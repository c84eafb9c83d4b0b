"""A start that failed: what its user reads, and what goes into the administrator's log."""

from __future__ import annotations

import html

from jupyterhub.spawner import SpawnException


class StartFailed(SpawnException):  # type: ignore[misc]  # untyped
    """Say why a start failed: ``message`` to the user, ``detail`` to the administrator.

    ``reason`` is a short label for metrics, ``status_code`` 503 where trying again later may
    help. ``lines`` are shown to the user below the message, as they are.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        detail: str,
        status_code: int = 500,
        lines: tuple[str, ...] = (),
    ) -> None:
        super().__init__(
            message,
            reason=reason,
            # What the hub logs; in the parent it is None of the user's business, yet shown to
            # them by pages that ask for the attributes below and do not find them
            # (jupyterhub/utils.py, format_exception).
            log_message=detail,
            status_code=status_code,
        )
        self.lines = lines
        self.jupyterhub_message = "\n".join((message, *lines))
        if lines:
            shown = html.escape("\n".join(lines))
            self.message_html = f"{html.escape(message)}<pre>{shown}</pre>"
            self.jupyterhub_html_message = self.message_html
