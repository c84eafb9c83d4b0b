"""Every error that this project raises on purpose.

The tree::

    JhswarmdError               what happened, why, what to do next
      UsageError                the command line or a file of the administrator is wrong
      NotNow                    the daemon is away or busy; the same request may be granted soon
      EngineError               the engine answered, and said no
        EngineNotFound          404: the one definite 'gone'
        EngineConflict          409: the name exists
        EngineUnavailable       no answer, or one that may differ a moment later; worth a retry
          EngineOutOfSequence   changed since it was read; nothing was applied
      HubUnknown                the hub gave no definite answer; never to be read as 'no servers'
        HubSilent, HubRefused, HubMalformed, HubScope: why

Payloads of other programs are cut to ``MAX_DETAIL`` characters, and nothing here ever holds the
bytes of a secret.
"""

from __future__ import annotations

from collections.abc import Iterable

MAX_DETAIL = 300


class JhswarmdError(Exception):
    """Say what happened, why, and what to do next.

    ``what`` is one sentence without a full stop. ``why`` and ``remedy`` may be empty. ``output``
    holds the last lines that another program wrote; the command line shows them below, as they
    are.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, why: str = "", remedy: str = "", output: Iterable[str] = ()
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why[:MAX_DETAIL]
        self.remedy = remedy
        self.output = tuple(line for line in output if line.strip())

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what


class UsageError(JhswarmdError):
    """The command line, or a file of the administrator, is wrong; nothing was changed."""

    exit_code = 2


class DaemonBusy(JhswarmdError):
    """The daemon is away, or busy with another change; the same request may be granted soon."""


class EngineError(JhswarmdError):
    """The engine answered, and refused. Not worth a retry."""


class EngineNotFound(EngineError):
    """The engine definitely does not have it (404)."""


class EngineConflict(EngineError):
    """The name is taken (409), maybe by our own request whose answer was lost."""


class EngineUnavailable(EngineError):
    """No answer, or one that may differ a moment later. The request may have been applied."""


class EngineOutOfSequence(EngineUnavailable):
    """The object has changed since it was read. Nothing was applied: read it again, then retry."""


class HubUnavailable(JhswarmdError):
    """The hub gave no definite answer. Unknown is not empty."""


class HubSilent(HubUnavailable):
    """No answer at all: it is down, starting or hung."""


class HubRefused(HubUnavailable):
    """An error status, or a redirect, which an API does not give."""


class HubMalformed(HubUnavailable):
    """An answer that is not what was asked for: HTML, truncated JSON, a missing key."""


class HubScope(HubUnavailable):
    """The token may not see all servers, so that a listing means nothing."""
