"""A site's own files in ``conf.d``: each loaded apart, and laid over the configuration before it.

traitlets lets the option of a more specific class win, whatever came last: a site's
``c.Spawner.mem_limit`` would do nothing beside our ``c.SwarmSpawner.mem_limit``. Here a later file
wins in whichever class it spells an option; within one file it is as in any JupyterHub.
"""

from __future__ import annotations

import ast
import copy
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue, PyFileConfigLoader

from jhswarmd import log_tail

#: What a file touched while it was loaded and what only the running hub has: its secrets, its
#: volumes, its networks. Filled by the rehearsal (``rehearsal.py``), else always empty.
out_of_reach: list[str] = []

_MAX_WORDS = 300


class Given(NamedTuple):
    """One option that a site sets. ``value`` may be a lazy one of traitlets (``append``)."""

    section: str
    option: str
    value: Any
    place: str
    """File and line, in words."""

    @property
    def name(self) -> str:
        """The option as it is spelled in the file."""
        return f"c.{self.section}.{self.option}"


@dataclass(frozen=True)
class File:
    """One file, as far as it could be loaded."""

    path: Path
    config: Config
    source: bytes = b""

    def place(self, section: str = "", option: str = "") -> str:
        """Return where the file sets an option; the file alone where no line shows it."""
        lines = [
            node.lineno
            for node in ast.walk(ast.parse(self.source or b""))
            if isinstance(node, ast.Attribute)
            and node.attr == option
            and _ends_in(node.value, section)
        ]
        return _place(self.path, max(lines, default=None))

    def given(self) -> Iterator[Given]:
        """Yield all options that this file sets."""
        for section, options in self.config.items():
            if not isinstance(options, Config):
                if not _is_empty(options):
                    yield Given("", section, options, self.place("c", section))
                continue
            for option, value in options.items():
                if not _is_empty(value):
                    yield Given(section, option, value, self.place(section, option))


@dataclass(frozen=True)
class Site:
    """All files of a folder; what is wrong with them, and what could not be judged, in words."""

    files: Sequence[File] = ()
    faults: Sequence[str] = ()
    unjudged: Sequence[str] = ()

    def given(self, sections: Iterable[str] = (), option: str = "") -> Iterator[Given]:
        """Yield what is set, in the order of the files, in ``sections`` (none: in any)."""
        wanted = frozenset(sections)
        for file in self.files:
            for given in file.given():
                if (not wanted or given.section in wanted) and option in ("", given.option):
                    yield given


def load(folder: Path) -> Site:
    """Load all Python files of ``folder`` in the order of their names. Never raises.

    A file that fails is left out, so that all others are judged too.
    """
    files: list[File] = []
    faults: list[str] = []
    unjudged: list[str] = []
    for path in sorted(folder.glob("*.py")):
        del out_of_reach[:]
        try:
            config = PyFileConfigLoader(str(path)).load_config()
        except BaseException as exc:  # noqa: BLE001 - of a site's own code
            words = f"{_where(path, exc)}: {_words(exc)}"
            if out_of_reach:
                unjudged.append(f"{words}. It needs {out_of_reach[0]}, which the running hub has")
            else:
                faults.append(words)
        else:
            files.append(File(path, config, path.read_bytes()))
    unjudged += [
        f"{_place(path, None)} is not read: its name does not end in .py"
        for path in sorted(folder.glob("*"))
        if path.is_file() and path.suffix != ".py" and path.name[0] != "." and path.stem != "README"
    ]
    unjudged += [
        f"{_place(path, None)} is a directory, whose files are not read by themselves"
        for path in sorted(folder.glob("*"))
        if path.is_dir() and any(path.glob("*.py"))
    ]
    return Site(files, faults, unjudged)


def overlay(c: Config, file: File, hierarchies: Iterable[Sequence[str]]) -> None:
    """Lay a file over ``c``; its options win over those that were there.

    ``hierarchies`` are the section names of classes, each from the most general one on.
    """
    for section, options in list(file.config.items()):
        if not isinstance(options, Config):
            continue
        for option in options:
            for names in hierarchies:
                _make_general(c, names, section, option)
    # A copy: traitlets lets a lazy value keep what it made of the first container.
    c.merge(copy.deepcopy(file.config))


def _make_general(c: Config, names: Sequence[str], section: str, option: str) -> None:
    """Move the value of ``option`` from more specific sections than ``section`` into it."""
    if section not in names:
        return
    more_specific = names[names.index(section) + 1 :]
    held = [name for name in more_specific if name in c and option in c[name]]
    if held:
        c[section][option] = c[held[-1]][option]
        for name in held:
            del c[name][option]


def section_names(cls: Any) -> list[str]:
    """Return the sections that configure ``cls``, the most general one first, each once."""
    # Ours has the name of its ancestor in dockerspawner: the last place counts.
    return list(dict.fromkeys(reversed(cls.section_names())))[::-1]


def _is_empty(value: Any) -> bool:
    """Tell whether an option was read only: traitlets makes an entry of that, too."""
    if isinstance(value, LazyConfigValue):
        # A misspelled section is one as well: what is set "in" it are attributes.
        own = [key for key in vars(value) if not key.startswith("_")]
        return not value.to_dict() and not own
    return isinstance(value, Config) and not value


def _ends_in(node: ast.expr, name: str) -> bool:
    return getattr(node, "attr", getattr(node, "id", None)) == name


def _place(path: Path, line: int | None) -> str:
    name = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    return name if line is None else f"{name}, line {line}"


def _where(path: Path, exc: BaseException) -> str:
    """Return file and line of what was raised while ``path`` was loaded."""
    if isinstance(exc, SyntaxError) and exc.filename == str(path):
        return _place(path, exc.lineno)
    frames = traceback.extract_tb(exc.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return _place(path, lines[-1] if lines else None)


def _words(exc: BaseException) -> str:
    if not isinstance(exc, Exception):
        return f"it ends the hub ({type(exc).__name__})"
    text = log_tail.hide(exc.msg if isinstance(exc, SyntaxError) else str(exc))
    raised_in = traceback.extract_tb(exc.__traceback__)[-1].filename
    if isinstance(exc, KeyError) and raised_in.endswith(("/os.py", "<frozen os>")):
        text += (
            ": the hub's environment has the keys of the profile alone. Instead: write the value "
            "here, if it is no secret"
        )
    if isinstance(exc, ModuleNotFoundError):
        text += ": the hub's image has JupyterHub, dockerspawner, oauthenticator and what they need"
    return f"{type(exc).__name__}: {text}"[:_MAX_WORDS]
