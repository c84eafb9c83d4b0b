"""What of a site's options cannot work in this stack, and what to set instead.

Judged when the hub starts, and before that by ``jhswarmd up`` (``rehearsal.py``): an option that
is ignored without a word would be taken for working. Which options there are, the classes
themselves tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from traitlets.config import Config

from jhswarmd.hub.checks import fixed, services, spawner, trial, unknown
from jhswarmd.hub.checks.classes import choose_classes
from jhswarmd.hub.checks.common import Classes, final
from jhswarmd.hub.checks.notices import warnings
from jhswarmd.hub.checks.spawner import NO_EFFECT, REFUSED
from jhswarmd.hub.site_config import Site
from jhswarmd.settings.settings import Settings

__all__ = ["NO_EFFECT", "REFUSED", "Classes", "choose_classes", "faults", "final", "warnings"]


def faults(
    c: Config, base: Config, site: Site, classes: Classes, settings: Settings
) -> Iterator[str]:
    """Yield everything that cannot work. ``base`` is our configuration, ``c`` with the site's."""
    checks: Iterable[Callable[[], Iterator[str]]] = (
        lambda: fixed.changed(base, site, classes, settings),
        lambda: unknown.unknown_options(site, classes),
        lambda: spawner.impossible(site, classes),
        lambda: spawner.unreachable(c, site, classes),
        lambda: spawner.invalid(site, classes),
        lambda: trial.unfit(c, site, classes),
        lambda: services.wrong_services(base, site),
        lambda: services.wrong_start(site),
        lambda: services.missing_files(site),
        lambda: spawner.unsafe(c),
    )
    for check in checks:
        yield from check()
