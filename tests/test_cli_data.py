"""robopref data: what is in a directory, in figures that another way of counting confirms."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robopref.cli.main import main
from robopref.labeling import label_steps
from robopref.store import EpisodeStore
from robopref.store.summary_columns import QUANTILES, column_passes
from robopref.trajectory import Actor, Label, Outcome, Step


def run(*arguments: Any, expect: int = 0) -> None:
    with pytest.raises(SystemExit) if expect else pytest.MonkeyPatch.context() as stopped:
        main([str(a) for a in ("data", *arguments)])
    if expect:
        assert stopped.value.code == expect


def filled(path: Path, count: int = 4, **changes: Any) -> EpisodeStore:
    store = EpisodeStore.create_or_open(path)
    for i, episode in enumerate(synthetic.interactions(count, image=True, policy_id="p", operator_id="o")):
        outcome = (Outcome.SUCCESS, Outcome.FAILURE)[i % 2]
        store.add(replace(episode, info=replace(episode.info, outcome=outcome, **changes)))
    return store


@pytest.fixture
def data(tmp_path: Path) -> EpisodeStore:
    return filled(tmp_path / "data")


def printed_json(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    capsys.readouterr()
    run(*arguments, "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_info_counts_what_was_recorded(data: EpisodeStore, capsys: pytest.CaptureFixture[str]) -> None:
    data.add(synthetic.episode([Actor.HUMAN] * 5, operator_id="anna", image=True, outcome=Outcome.ABORTED))
    found = printed_json(capsys, "info", data.path)
    episodes = list(data)
    actors = np.concatenate([episode.actor for episode in episodes])
    assert (found["episodes"], found["steps"]) == (5, len(actors))
    assert found["human_steps"] == found["actors"]["human"] == (actors == Actor.HUMAN).sum()
    assert {k: v["successes"] for k, v in found["outcomes"].items()} == {"success": 2, "failure": 2, "aborted": 1}
    assert all(rate["n"] == 5 and rate["low"] < rate["value"] < rate["high"] for rate in found["outcomes"].values())
    assert found["takeovers"] == 4 * 2 + 1
    assert found["by"]["operator"]["anna"]["human_share"]["value"] == 1
    assert found["by"]["operator"]["o"]["takeovers_per_episode"]["value"] == 2
    assert set(found["by"]["policy"]) == {"(none)", "p"}
    assert found["control"]["hz"] == pytest.approx(20)
    assert found["seconds"] == pytest.approx(sum((len(episode) - 1) / 20 for episode in episodes))
    on_disk = sum(f.stat().st_size for f in data.path.rglob("*") if f.is_file())
    assert found["bytes"] == on_disk
    assert found["columns"]["observation/image"] == {"dtype": "uint8", "shape": [16, 16, 3]}


def test_info_and_stats_go_on_past_a_damaged_episode_and_name_it(
    data: EpisodeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = data.episode_ids()[1]
    os.truncate(data.path / "episodes" / f"{damaged}.safetensors", 100)
    for command in ("info", "stats"):
        found = printed_json(capsys, command, data.path)
        assert found["episodes"] == 3
        assert list(found["damaged"]) == [damaged]
        run(command, data.path)
        assert damaged in capsys.readouterr().out


def test_info_says_what_it_recovered_and_what_is_running(
    data: EpisodeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = next(iter(data))
    info = recorded.info
    step = Step(
        observation={key: values[0] for key, values in recorded.observation.items()},
        action=recorded.action[0],
        actor=Actor.POLICY,
        policy_action=recorded.action[0],
        t_monotonic_ns=1,
    )
    dead, alive, unwanted = data.begin(info), data.begin(info), data.begin(info)
    for writer in (dead, alive, unwanted):
        writer.append(step)
    unwanted.discard()
    dead.close()
    found = printed_json(capsys, "info", data.path)
    assert found["episodes"] == 5
    assert dead.info.episode_id in found["recovered"][0]
    assert found["running"] == [alive.info.episode_id]
    assert found["discarded"] == [unwanted.info.episode_id]
    assert found["stuck"] == []
    run("info", data.path)
    assert "1 being recorded now" in capsys.readouterr().out
    alive.close()


def test_an_empty_directory_is_no_mistake_and_a_missing_one_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    EpisodeStore.create_or_open(tmp_path / "empty")
    run("info", tmp_path / "empty")
    assert "no finished episode" in capsys.readouterr().out
    assert printed_json(capsys, "info", tmp_path / "empty")["episodes"] == 0
    run("stats", tmp_path / "empty", expect=2)
    assert "nothing to count" in capsys.readouterr().err
    for command in ("info", "stats"):
        run(command, tmp_path / "absent", expect=2)
        assert "no data directory" in capsys.readouterr().err


def test_statistics_are_those_of_all_steps_at_once(
    data: EpisodeStore, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = printed_json(capsys, "stats", data.path, "--out", tmp_path / "stats.json")
    assert json.loads((tmp_path / "stats.json").read_text()) == found
    episodes = list(data)
    for name, values in {
        "action": np.concatenate([e.action for e in episodes]),
        "observation/state": np.concatenate([e.observation["state"] for e in episodes]),
        "observation/image": np.concatenate([e.observation["image"] for e in episodes]).reshape(-1, 1),
    }.items():
        column = found["columns"][name]
        np.testing.assert_allclose(column["mean"], values.mean(axis=0, dtype=np.float64))
        np.testing.assert_allclose(column["std"], values.std(axis=0, dtype=np.float64))
        np.testing.assert_allclose(column["min"], values.min(axis=0))
        np.testing.assert_allclose(column["max"], values.max(axis=0))
    actors = np.concatenate([e.actor for e in episodes])
    assert found["columns"]["human_action"]["missing"] == [int((actors != Actor.HUMAN).sum())] * 4
    labels = np.concatenate([label_steps(e.actor, 10) for e in episodes])
    assert found["labels"]["counts"] == {label.name.lower(): int((labels == label).sum()) for label in Label}
    human = [of["by"]["human"] for of in found["actions"]["dimensions"]]
    assert all(of["steps"] == sum(of["counts"]) == (actors == Actor.HUMAN).sum() for of in human)
    driven = np.concatenate([e.action[e.actor == Actor.HUMAN] for e in episodes])
    np.testing.assert_allclose([of["at_highest"] for of in human], (driven == 0.5).mean(axis=0))
    # The policy of these episodes does the opposite in all four dimensions, each half a unit from zero.
    assert found["human_against_policy"]["steps"] == (actors == Actor.HUMAN).sum()
    assert found["human_against_policy"]["same_action"] == 0
    assert found["human_against_policy"]["distance"]["mean"] == [pytest.approx(2.0)]
    assert sum(map(sum, found["lengths"]["counts"].values())) == 4


def test_labels_follow_the_stored_rule(data: EpisodeStore, capsys: pytest.CaptureFixture[str]) -> None:
    main(["relabel", "--data", str(data.path), "--window", "2"])
    assert printed_json(capsys, "stats", data.path)["labels"]["counts"]["undesirable"] == 4 * 2 * 2
    run("stats", data.path)
    assert "window of 2" in capsys.readouterr().out


def test_discrete_actions_are_counted_by_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = EpisodeStore.create_or_open(tmp_path / "data")
    episode = synthetic.episode([Actor.POLICY] * 6 + [Actor.HUMAN] * 4, discrete=True)
    actions = np.array([0, 0, 2, 2, 2, 5, 1, 1, 5, 5])
    human = np.where(episode.actor == Actor.HUMAN, actions, -1)
    proposed = np.where(np.arange(10) == 9, actions, 0)
    store.add(replace(episode, action=actions, human_action=human, policy_action=proposed))
    found = printed_json(capsys, "stats", store.path)
    (dimension,) = found["actions"]["dimensions"]
    assert dimension["values"] == [0, 1, 2, 3, 4, 5]
    assert dimension["by"]["policy"]["counts"] == [2, 0, 3, 0, 0, 1]
    assert dimension["by"]["human"]["counts"] == [0, 2, 0, 0, 0, 2]
    assert found["human_against_policy"] == {"steps": 4, "same_action": 1, "distance": None}
    assert found["columns"]["human_action"]["min"] == [1]
    run("stats", store.path)
    assert "very same in 25.0 %" in capsys.readouterr().out


DTYPES = st.sampled_from(["uint8", "int64", "float32", "float64", "bool", "int8"])


@settings(max_examples=60)
@given(st.data())
def test_columns_in_pieces_are_as_in_one(draw: st.DataObject) -> None:
    dtype = np.dtype(draw.draw(DTYPES))
    shape = draw.draw(st.sampled_from([(), (3,), (2, 2), (65,)]))
    bounds = {"min_value": -1000, "max_value": 1000} if dtype.kind == "f" or dtype == np.int64 else {}
    elements = hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False, **bounds)
    pieces = [
        draw.draw(hnp.arrays(dtype, (draw.draw(st.integers(0, 5)), *shape), elements=elements, fill=elements))
        for _ in range(draw.draw(st.integers(1, 4)))
    ]
    passes = column_passes(dtype, shape, null=False)
    for piece in pieces:
        passes.measure(piece)
    for piece in pieces:
        passes.sort_in(piece)
    found = passes.result()
    together = np.concatenate(pieces).astype(np.float64).reshape(-1, len(found.mean))
    assert found.count.tolist() == [len(together)] * len(found.mean)
    if len(together) == 0:
        assert np.isnan(found.mean).all()
        assert np.isnan(found.quantiles).all()
        return
    np.testing.assert_allclose(found.mean, together.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(found.std, together.std(axis=0), atol=1e-6)
    np.testing.assert_array_equal(found.minimum, together.min(axis=0))
    np.testing.assert_array_equal(found.maximum, together.max(axis=0))
    exact = np.quantile(together, QUANTILES, axis=0, method="inverted_cdf").T
    allowed = 0.0 if dtype.kind != "f" and np.ptp(together) < 2000 else np.ptp(together) / 2048 + 1e-12
    assert np.abs(found.quantiles - exact).max() <= allowed


def test_what_is_broken_is_told_and_repaired(data: EpisodeStore, capsys: pytest.CaptureFixture[str]) -> None:
    run("check", data.path)
    assert "as it was recorded" in capsys.readouterr().out
    episode_id = data.episode_ids()[2]
    path = data.path / "episodes" / f"{episode_id}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    run("check", data.path, expect=1)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert told[0].count(str(path)) == 1
    run("check", data.path, "--json", expect=1)
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["episode_id"], problem["repairable"]) == (episode_id, True)
    run("repair", data.path, "--dry-run")
    assert "would repair" in capsys.readouterr().out
    assert path.exists()
    run("repair", data.path)
    assert episode_id in capsys.readouterr().out
    assert not path.exists()
    run("check", data.path)
    run("repair", data.path)
    assert "nothing to repair" in capsys.readouterr().out
    for command in ("check", "repair"):
        run(command, data.path / "absent", expect=2)
        assert "no data directory" in capsys.readouterr().err


def test_merging_and_splitting_by_share(data: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path / "other", 2)
    merged = tmp_path / "merged"
    run("merge", merged, data.path, tmp_path / "other")
    assert len(EpisodeStore.open(merged)) == 6
    run("merge", merged, data.path)
    assert "4 were there already" in capsys.readouterr().out
    a, b = tmp_path / "a", tmp_path / "b"
    run("split", merged, "--into", f"{a}=0.5", f"{b}=0.34", "--seed", 3)
    told = capsys.readouterr().out
    assert "1 episodes went into no part" in told
    ids = [EpisodeStore.open(part).episode_ids() for part in (a, b)]
    assert [len(part) for part in ids] == [3, 2]
    assert not set(ids[0]) & set(ids[1])
    run("check", a)


def test_splitting_by_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = EpisodeStore.create_or_open(tmp_path / "data")
    for i, operator in enumerate(["anna", "../bob", "", "anna"]):
        store.add(synthetic.episode([Actor.HUMAN] * 3, seed=i, operator_id=operator))
    run("split", store.path, "--into", tmp_path / "parts", "--by", "operator")
    parts = {path.name: len(EpisodeStore.open(path)) for path in (tmp_path / "parts").iterdir()}
    assert parts == {"anna": 2, "_bob": 1, "none": 1}
    run("split", store.path, "--into", tmp_path / "outcomes", "--by", "outcome")
    assert [path.name for path in (tmp_path / "outcomes").iterdir()] == ["success"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("split", "data", "--into", "x"), "DIRECTORY=SHARE"),
        (("split", "data", "--into", "x=many"), "DIRECTORY=SHARE"),
        (("split", "data", "--into", "=0.5"), "DIRECTORY=SHARE"),
        (("split", "data", "--into", "x=0.5", "x=0.5"), "names x twice"),
        (("split", "data", "--into", "x=0.5", "y=0.9"), "sum to 1"),
        (("split", "data", "--into", "x=0.5", "--by", "task"), "one directory"),
        (("split", "empty", "--into", "x", "--by", "task"), "nothing to split"),
        (("split", "absent", "--into", "x=1"), "no data directory"),
        (("merge", "x"), "name the directories"),
        (("merge", "x", "absent"), "no data directory"),
        (("merge", "x", "empty"), "no finished episode"),
        (("merge", "data", "data"), "choose another target"),
    ],
)
def test_what_cannot_be_moved_is_refused(
    data: EpisodeStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: Any,
    message: str,
) -> None:
    monkeypatch.chdir(data.path.parent)
    EpisodeStore.create_or_open("empty")
    run(*arguments, expect=2)
    assert message in capsys.readouterr().err
    assert not Path("x").exists()
