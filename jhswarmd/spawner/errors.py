"""A start that failed: what its user reads, and what goes into the administrator's log."""

from __future__ import annotations

import html

from jupyterhub.spawner import SpawnException


class StartFailed(SpawnException):  # type: ignore[misc]  # untyped
    """Say why a start failed: ``message`` to the user, ``detail`` to the administrator.

    ``reason`` is a short label for metrics, ``status_code`` 503 where trying again later may
    help. ``lines`` are shown to the user below the message, as they are. ``may_pass`` tells that
    the same start may succeed at once.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        detail: str,
        status_code: int = 500,
        lines: tuple[str, ...] = (),
        may_pass: bool = False,
    ) -> None:
        super().__init__(
            message,
            reason=reason,
            log_message=detail,
            status_code=status_code,
        )
        self.lines = lines
        self.may_pass = may_pass
        # Pages ask for these, and else show what goes into the log (jupyterhub/utils.py,
        # format_exception): SpawnException's own ``message`` reaches nobody.
        self.jupyterhub_message = "\n".join((message, *lines))
        if lines:
            shown = html.escape("\n".join(lines))
            self.message_html = f"{html.escape(message)}<pre>{shown}</pre>"
            self.jupyterhub_html_message = self.message_html
