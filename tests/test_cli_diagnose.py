"""``robopref diagnose`` from the command line, on real games and small networks: what it leaves, says and tracks."""

import json
from dataclasses import replace

import pytest
import torch
from command_line import run
from diagnose_runs import QUICK, save
from diagnose_runs import model as model
from made_diagnoses import make_comparison, make_diagnosis

from robopref.cli.diagnose_compare import print_comparison
from robopref.cli.diagnose_print import print_diagnosis
from robopref.diagnosis import load_comparison, load_diagnosis
from robopref.evaluation.statistics import Estimate


@pytest.fixture(scope="module")
def diagnosed(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("diagnosed") / "pong"
    run("diagnose", "--model", model, "--out", out, "--shifts", "rotation:degrees=3", "jpeg", *QUICK)
    return out


def test_a_diagnosis_leaves_numbers_figures_and_a_report(diagnosed, model):
    found = load_diagnosis(diagnosed)
    assert found.subject.policy == str(model)
    assert found.subject.task == "pong"
    assert found.subject.actions[0] == "NOOP"
    assert found.subject.value_unit == "discounted reward"
    assert found.subject.environment["sticky_actions"] == 0.25  # as the checkpoint says
    assert [c.name for c in found.conditions] == ["null", "rotation:degrees=3", "jpeg"]
    assert found.conditions[1].detail == "rotation:degrees=3.0"
    assert found.statements[0].startswith("UNTRAINED")
    # the checkpoint says three of the settings; that the others are assumed is told
    assert any("assumed: " in s and "noop_max=30" in s and "sticky" not in s for s in found.statements)
    page = (diagnosed / "report.html").read_text()
    assert "UNTRAINED" in page
    assert len(list((diagnosed / "figures").glob("*.png"))) >= 8
    table = (diagnosed / "tables" / "conditions.csv").read_text().splitlines()
    assert table[0].startswith("name,kind,detail,n_states,quotient_value,quotient_low")
    assert len(table) == 4
    metrics = json.loads((diagnosed / "metrics.jsonl").read_text())
    assert metrics["quotient/null/value"] == pytest.approx(found.null.quotient.value)
    assert json.loads((diagnosed / "tracked.json").read_text())["untrained"] is True
    assert json.loads((diagnosed / "config.json").read_text())["config"]["policy_id"] == found.subject.policy_id


def test_an_earlier_run_is_not_overwritten_and_goes_on_only_as_it_was(diagnosed, model, capsys):
    arguments = ("diagnose", "--model", model, "--out", diagnosed, "--shifts", "rotation:degrees=3", "jpeg", *QUICK)
    run(*arguments, expect=2)
    assert "add --resume" in capsys.readouterr().err
    run(*arguments, "--resume", "--temperature", 2, expect=2)
    assert "other settings (temperature)" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in (diagnosed / "sets").iterdir()}
    run(*arguments, "--resume")
    assert {path: path.stat().st_mtime_ns for path in (diagnosed / "sets").iterdir()} == before


def test_the_console_says_what_counts(model, tmp_path, capsys):
    run("diagnose", "--model", model, "--out", tmp_path / "a", "--shifts", "none", *QUICK, "--temperature", 1e-9)
    printed = " ".join(capsys.readouterr().out.split())
    assert "UNTRAINED: this policy does not play pong better than random actions do" in printed
    assert "All directions vanish at T = 1e-09 in float32" in printed
    assert "report: " in printed


def test_the_console_shows_no_interval_where_there_is_none(capsys):
    """Of a single episode there is none, whatever the resampling returned."""
    one = Estimate(0.4321, 0.4321, 0.4321, 1)
    found, comparison = make_diagnosis(), make_comparison()
    several = found.competence.score
    print_diagnosis(replace(found, directions=replace(found.directions, share=one, eigengap=one)))
    printed = " ".join(capsys.readouterr().out.split())
    assert "lambda_1 / trace 0.432 (n = 1); lambda_2 / lambda_1 0.432 (n = 1);" in printed
    assert f"{several.value:.3g} [{several.low:.3g}, {several.high:.3g}]" in printed
    print_comparison(replace(comparison, angle=one))
    printed = capsys.readouterr().out
    assert "0.432 (n = 1)" in printed
    assert "0.432 [" not in printed


def test_a_policy_that_always_does_the_same_is_said_loudly(tmp_path, capsys):
    def constant(network):
        with torch.no_grad():
            *_, (_, bias) = ((name, p) for name, p in network.named_parameters() if p.shape == (6,))
            bias[3] += 1000

    model = save(tmp_path / "constant", change=constant, dueling=False)
    run("diagnose", "--model", model, "--out", tmp_path / "out", "--shifts", "none", *QUICK, "--temperature", 1000)
    printed = " ".join(capsys.readouterr().out.split())
    assert "ALWAYS LEFT: the greedy action is LEFT in every one of 50 visited states" in printed
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert any(s.startswith("ALWAYS LEFT") for s in summary["statements"])
    assert summary["decisions"]["habit"]["actions"] == [3]
    assert json.loads((tmp_path / "out" / "tracked.json").read_text())["always"] == ["LEFT"]
    assert "ALWAYS LEFT" in (tmp_path / "out" / "report.html").read_text()
    assert summary["subject"]["synonyms"] == [[0, 1], [2, 4], [3, 5]]  # measured in the game


def test_two_diagnoses_side_by_side(diagnosed, tmp_path, capsys):
    other = save(tmp_path / "other", change=lambda network: [p.data.mul_(1.5) for p in network.parameters()])
    run("diagnose", "--model", other, "--out", tmp_path / "b", "--shifts", "jpeg", *QUICK)
    out = tmp_path / "both"
    arguments = ("diagnose", "compare", diagnosed, tmp_path / "b", "--out", out, "--wandb", "disabled")
    run(*arguments, "--names", "plain", "loud")
    found = load_comparison(out)
    assert found.names == ("plain", "loud")
    assert set(found.quotients) == {"null", "jpeg"}
    assert "angle of G_S" in capsys.readouterr().out
    assert "plain" in (out / "comparison.html").read_text()
    assert (out / "tables" / "quotients.csv").read_text().startswith("condition,a_value,a_low")
    run(*arguments, expect=2)
    assert "add --resume" in capsys.readouterr().err
    for wrong, message in [
        ((diagnosed, diagnosed), "are the same directory"),
        ((diagnosed, tmp_path), "has not come to its end"),
    ]:
        run("diagnose", "compare", *wrong, "--out", tmp_path / "c", "--wandb", "disabled", expect=2)
        assert message in " ".join(capsys.readouterr().err.split())


def test_wandb_gets_images_and_tables(model, tmp_path):
    out = tmp_path / "run"
    quick = [a for a in QUICK if a not in ("--wandb", "disabled")]
    run("diagnose", "--model", model, "--out", out, "--shifts", "none", *quick, "--wandb", "offline")
    assert list((out / "wandb").glob("offline-run-*/*.wandb"))
    media = list((out / "wandb").rglob("*.png"))
    assert len(media) == len(list((out / "figures").glob("*.png")))
    assert list((out / "wandb").rglob("conditions*.table.json"))


class Refuses:
    """A tracker that fails in a way of its own."""

    def __init__(self, *arguments, **settings):
        raise ConnectionResetError("the service is gone")


def test_tracking_that_fails_costs_neither_the_report_nor_the_numbers(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("robopref.tracking.Tracker", Refuses)
    run("diagnose", "--model", model, "--out", tmp_path / "a", "--shifts", "none", *QUICK)
    printed = " ".join(capsys.readouterr().out.split())
    assert "The results are complete, but tracking them failed (ConnectionResetError: the service is gone)" in printed
    assert printed.index("report: ") < printed.index("tracking them failed")
    assert (tmp_path / "a" / "report.html").exists()
    assert json.loads((tmp_path / "a" / "status.json").read_text())["state"] == "finished"
