"""``python -m bench``: run, show a table, write JSON."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import measure
from bench.accounts import accounts as measure_accounts
from bench.figures import HEADINGS, Figure, markdown, report
from bench.passes import passes
from bench.restart import restart
from bench.rotation import rotation
from bench.site import BenchError, Site
from tests.kit.lab import Lab, LabError

PARTS = ("spawn", "many", "orphans", "passes", "rotation", "restart", "accounts")
#: Turns of full passes.
PASSES = 7
#: Turns of rotations, and with how many open channels.
ROTATIONS, CHANNELS = 3, 5
#: Turns of hubs that are killed, and of so many orphans that are approved.
RESTARTS, APPROVED = 3, 100
#: Turns of lists with many accounts.
LISTS = 5


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    only: Annotated[
        str, typer.Option(metavar="PARTS", help="What to measure, separated by commas.")
    ] = ",".join(PARTS),
    rounds: Annotated[int, typer.Option(help="Turns of single spawns.")] = 10,
    at_once: Annotated[
        str, typer.Option(metavar="SIZES", help="How many starts at once, separated by commas.")
    ] = "20,40",
    many_rounds: Annotated[int, typer.Option(help="Turns of many at once.")] = 3,
    tracked: Annotated[int, typer.Option(help="Servers among which orphans appear.")] = 1000,
    orphans: Annotated[int, typer.Option(help="How many orphans.")] = 20,
    large: Annotated[int, typer.Option(help="Servers over which full passes go.")] = 10_000,
    notebooks: Annotated[int, typer.Option(help="Notebooks that run while secrets rotate.")] = 20,
    accounts: Annotated[int, typer.Option(help="Accounts that a list of users has.")] = 10_000,
    json_file: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads annotations at run time, on Python 3.10 too
        typer.Option("--json", metavar="FILE", help="Write every sample as JSON."),
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.")
    ] = False,
    lab_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Keep the engine's images here between runs."),
    ] = None,
    logs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Keep the logs of hubs and daemon here."),
    ] = None,
) -> None:
    """Measure spawner and daemon beside the bare engine and stock SwarmSpawner.

    Needs root, and an hour for everything. Ratios of medians are what counts.
    """
    parts = [part for part in PARTS if part in only.split(",")]
    if not parts or set(only.split(",")) - set(PARTS):
        raise typer.BadParameter(f"choose from {', '.join(PARTS)}", param_hint="--only")
    sizes = [int(word) for word in at_once.split(",")]
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    loads: dict[str, list[float]] = {}
    begun_at = time.monotonic()
    figures: list[Figure] = []
    facts: list[str] = []
    # The default ends the process at once and leaves the lab behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _progress(console) as start_bar:
        bar = start_bar("engine", 0)
        bar("a lab of its own, and its image", 0)
        with Lab(keep_dir=lab_dir) as lab:
            site = Site(lab, logs)
            version = site.api.version()["Version"]
            with contextlib.ExitStack() as stack:
                if "spawn" in parts or "many" in parts:
                    turns = stack.enter_context(measure.contenders(site, bar))
                if "spawn" in parts:
                    steps = 3 * (rounds + measure.RESTARTS)
                    with _load(loads, "spawn"):
                        figures += measure.spawn(site, turns, rounds, start_bar("spawn", steps))
                if "many" in parts:
                    steps = 3 * many_rounds * len(sizes)
                    with _load(loads, "many"):
                        figures += measure.many(
                            site, turns, sizes, many_rounds, start_bar("many", steps)
                        )
            if "orphans" in parts:
                with _load(loads, "orphans"):
                    figures += measure.orphans(
                        site, tracked, orphans, start_bar("orphans", orphans)
                    )
            if "passes" in parts:
                with _load(loads, "passes"):
                    found, facts = passes(
                        site, large, PASSES, orphans, start_bar("passes", PASSES + orphans)
                    )
                    figures += found
            if "rotation" in parts:
                with _load(loads, "rotation"):
                    found, told = rotation(
                        lab, notebooks, CHANNELS, ROTATIONS, start_bar("rotation", ROTATIONS)
                    )
                    figures += found
                    facts += told
            if "restart" in parts:
                with _load(loads, "restart"):
                    figures += restart(lab, RESTARTS, APPROVED, start_bar("restart", 2 * RESTARTS))
            if "accounts" in parts:
                with _load(loads, "accounts"):
                    found, told = measure_accounts(
                        lab, accounts, LISTS, start_bar("accounts", LISTS + 2)
                    )
                    figures += found
                    facts += told
    about = {
        "facts": facts,
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "engine": version},
        "took_s": round(time.monotonic() - begun_at),
        "load_1min": loads,
    }
    if json_file:
        json_file.write_text(json.dumps(report(figures, about), indent=2) + "\n")
    _show(console, figures, about, as_markdown=as_markdown)


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int], measure.Report]]:
    """Show a line for each part; yields what begins one, given its name and number of steps."""
    columns = (
        TextColumn("{task.fields[part]:8}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:

        def end_all() -> None:
            for task in progress.tasks:
                total = task.total or 1
                progress.update(task.id, description="", total=total, completed=total)

        def begin(part: str, steps: int) -> measure.Report:
            end_all()
            task_id = progress.add_task("", part=part, total=steps or None)
            done = -1

            def tell(doing: str, step: int) -> None:
                # A step is told of when it begins.
                nonlocal done
                done += step
                progress.update(task_id, description=doing, completed=max(done, 0))
                if not console.is_terminal:
                    console.print(f"{part}: {doing}")

            return tell

        yield begin
        end_all()


@contextlib.contextmanager
def _load(loads: dict[str, list[float]], part: str) -> Iterator[None]:
    """Note the machine's load, which this part makes for the most, before and after it."""
    before = os.getloadavg()[0]
    yield
    loads[part] = [round(before, 2), round(os.getloadavg()[0], 2)]


def _show(
    console: Console, figures: list[Figure], about: dict[str, Any], *, as_markdown: bool
) -> None:
    if as_markdown:
        typer.echo(markdown(figures))
    else:
        table = Table(*HEADINGS, title="Medians, and the worst of all samples")
        for figure in figures:
            table.add_row(*figure.cells())
        console.print(table)
    for fact in about["facts"]:
        console.print(fact)
    machine = about["machine"]
    loads = ", ".join(f"{part} {a} to {b}" for part, (a, b) in about["load_1min"].items())
    console.print(
        f"{machine['cpus']} processors, engine {machine['engine']}, kernel {machine['kernel']}; "
        f"{about['took_s']} s; load before and after: {loads}"
    )


if __name__ == "__main__":
    try:
        app()
    except (LabError, BenchError) as exc:
        raise SystemExit(f"error: {exc}") from exc
