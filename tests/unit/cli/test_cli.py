"""The command line: errors become messages and exit codes in one place."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from jhswarmd import __version__, cli
from jhswarmd.commands import selection, up
from jhswarmd.deploy.machine import local_engine
from jhswarmd.errors import JhswarmdError, UsageError


def test_help_lists_every_command():
    result = CliRunner().invoke(cli.app, ["--help"])
    for command in ("up", "build", "render", "down", "status", "run", "reconcile", "orphans"):
        assert command in result.output
    assert "ctl" not in result.output.split()


def test_the_command_line_starts_without_heavy_imports():
    code = "import sys, jhswarmd.cli; print({'docker', 'pydantic', 'yaml'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_the_version_is_printed():
    assert CliRunner().invoke(cli.app, ["version"]).output.strip() == __version__


@pytest.mark.parametrize(("error", "code"), [(JhswarmdError, 1), (UsageError, 2)])
def test_an_error_shows_what_why_and_what_to_do_next(monkeypatch, capsys, error, code):
    def fail(**_):
        raise error(
            "The thing failed",
            why="it is Monday",
            remedy="Wait.",
            output=["line [1]", "", "line 2"],
        )

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    err = capsys.readouterr().err
    assert "The thing failed: it is Monday" in err
    assert "What to do: Wait." in err
    assert "  | line [1]\n  | line 2\n" in err


def test_an_invalid_profile_is_refused_before_contact_with_the_engine(
    monkeypatch, tmp_path, capsys
):
    (tmp_path / "bad.env").write_text("NOSUCH=1\n")
    monkeypatch.setenv("JHSWARMD_ENV_DIR", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    monkeypatch.setattr(sys, "argv", ["jhswarmd", "up", "--env", "bad"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "bad.env:1: unknown key NOSUCH" in capsys.readouterr().err


def test_an_invalid_environment_is_reported_by_key_without_values(monkeypatch, capsys):
    monkeypatch.setenv("HTTPS_PORT", "hunter2")
    monkeypatch.setattr(sys, "argv", ["jhswarmd", "run"])
    with pytest.raises(SystemExit):
        cli.main()
    err = capsys.readouterr().err
    assert "HTTPS_PORT" in err
    assert "hunter2" not in err


@pytest.mark.parametrize("command", ["up", "build"])
@pytest.mark.parametrize("named", [[], ["--env", "local"]])
def test_the_engine_is_looked_for_once(monkeypatch, command, named):
    connected = []

    def load(name, if_new, connect):
        return None if name else connect()

    def use(profile, progress, connect, *_):
        connect()
        return []

    monkeypatch.setattr(local_engine, "ensure_engine", connected.append)
    monkeypatch.setattr(selection, "load", load)
    monkeypatch.setattr(up, command, use)
    monkeypatch.setattr(sys, "argv", ["jhswarmd", command, *named])
    with pytest.raises(SystemExit) as ended:
        cli.app()
    assert ended.value.code == 0
    assert len(connected) == 1
