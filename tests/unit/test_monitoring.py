"""The alert rules and the dashboard: what they name exists, and Grafana's own schema knows it."""

import json
import re
from pathlib import Path

import pytest
import yaml

from jhswarmd import metrics

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text())

#: What the daemon promises to tell (docs/operations.md).
PROMISED = {
    "jhswarmd_pass_seconds": "passes and their duration",
    "jhswarmd_orphans_seen": "orphans seen",
    "jhswarmd_orphans_removed": "orphans removed",
    "jhswarmd_orphans_held": "orphans held",
    "jhswarmd_event_lag_seconds": "event lag",
    "jhswarmd_reconnects": "reconnects",
    "jhswarmd_unknown": "unknown verdicts by reason",
    "jhswarmd_notebook_services": "tracked servers",
    "jhswarmd_duty": "duty",
}


def _series():
    """Return the names of all series that the daemon can tell of."""
    suffixes = {
        "counter": ("_total", "_created"),
        "histogram": ("_bucket", "_count", "_sum", "_created"),
        "gauge": ("",),
    }
    return {
        family.name + suffix
        for family in metrics.REGISTRY.collect()
        for suffix in suffixes[family.type]
    }


def _expressions():
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_what_was_promised_is_told():
    assert PROMISED.keys() <= {family.name for family in metrics.REGISTRY.collect()}


@pytest.mark.parametrize(("name", "expression"), list(_expressions()))
def test_an_expression_names_only_what_the_daemon_tells(name, expression):
    named = set(re.findall(r"\bjhswarmd_\w+", expression))
    assert named
    assert named <= _series()


def test_each_alert_says_what_it_means_and_what_to_do():
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            assert {"summary", "description"} == rule["annotations"].keys()
            assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_panels_do_not_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def _lost(given, known, path=""):
    """Return what is in ``given`` and not, or not the same, in ``known``."""
    if isinstance(given, dict) and isinstance(known, dict):
        return [
            found
            for key, value in given.items()
            for found in _lost(value, known.get(key, KeyError), f"{path}/{key}")
        ]
    if isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        pairs = enumerate(zip(given, known, strict=True))
        return [found for at, (a, b) in pairs for found in _lost(a, b, f"{path}/{at}")]
    return [] if given == known else [path]


def _read_as_grafana_does(dashboard):
    """Return the dashboard as Grafana's own models keep it; what they do not know gets lost."""
    # It needs Python 3.11.
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def test_grafana_knows_every_key_of_the_dashboard():
    assert _lost(DASHBOARD, _read_as_grafana_does(DASHBOARD)) == []


def test_a_key_that_grafana_does_not_know_would_be_found():
    wrong = json.loads(json.dumps(DASHBOARD))
    wrong["panels"][6]["fieldConfig"]["defaults"]["custom"]["fillOpacityy"] = 1
    wrong["panels"][0]["targets"][0]["exprr"] = "x"
    assert _lost(wrong, _read_as_grafana_does(wrong)) == [
        "/panels/0/targets/0/exprr",
        "/panels/6/fieldConfig/defaults/custom/fillOpacityy",
    ]
