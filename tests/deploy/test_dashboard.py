"""What deploy/ has for Grafana and Prometheus, against what the code exports."""

import json
import re
from typing import Any

import pytest
import yaml

from flows.monitoring.prometheus import NightMetrics
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "slidewatch.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
GROUPS: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())[
    "groups"
]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
SUFFIXES = {
    "counter": ["_total"],
    "gauge": [""],
    "summary": ["_count", "_sum"],
    "histogram": ["_bucket", "_count", "_sum"],
}

by_title = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
by_alert = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


def exported() -> set[str]:
    """The names of all samples that a run can have."""
    families = NightMetrics("night").registry.collect()
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in PromQL: here they all have one beginning."""
    without_text = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\bslidewatch_\w+", without_text))


@by_title
def test_a_panel_asks_for_metrics_that_there_are(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        assert metrics_in(target["expr"])
        assert metrics_in(target["expr"]) <= exported()
        assert target["expr"].count("(") == target["expr"].count(")")
        assert target["expr"].count("slidewatch_") == target["expr"].count('series=~"$series"')
        assert (
            target["datasource"]
            == panel["datasource"]
            == {"type": "prometheus", "uid": "${datasource}"}
        )
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)
    assert panel["description"]


def test_a_night_that_is_26_hours_old_is_red() -> None:
    (panel,) = [panel for panel in PANELS if panel["title"] == "Last successful night"]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert {"color": "red", "value": 26 * 3600} in steps


def test_what_an_operator_needs_is_on_the_dashboard_or_an_alert() -> None:
    asked = {name for panel in PANELS for t in panel["targets"] for name in metrics_in(t["expr"])}
    asked |= {name for rule in RULES for name in metrics_in(rule["expr"])}
    # Reasons are shown by night; a histogram's sum and counts are its buckets in other words.
    left = {"slidewatch_failures_total", "slidewatch_stage_seconds_count"}
    left |= {"slidewatch_shard_seconds_sum", "slidewatch_shard_seconds_count"}
    assert exported() - asked == left


@by_alert
def test_an_alert_is_a_rule_about_metrics_that_there_are(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert metrics_in(rule["expr"])
    assert metrics_in(rule["expr"]) <= exported()
    assert rule["expr"].count("(") == rule["expr"].count(")")
    assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s"))
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert {"summary", "description"} == set(rule["annotations"])


def test_every_metric_is_explained() -> None:
    text = (DEPLOY / "nights.md").read_text()
    explained = set(re.findall(r"`(slidewatch_\w+)`", text))
    families = {family.name for family in NightMetrics("night").registry.collect()}
    assert {name.removesuffix("_total") for name in explained} == families
