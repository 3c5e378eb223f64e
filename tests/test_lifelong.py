"""Rounds: whose policy is deployed, what is learned from, when it stops, that it goes on."""

import gc
import json
import os
import signal
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import episode

from robopref.cli import lifelong
from robopref.cli.collect import run_deployment
from robopref.cli.interrupt import graceful_interrupt
from robopref.cli.lifelong import Lifelong, Round, round_directory, run_lifelong
from robopref.cli.run_directory import read_json
from robopref.envs.perturbations.options import PerturbationOptions
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Rate
from robopref.policies.registry import load_policy, policy_id
from robopref.policies.vla.options import LoraOptions, VLAOptions
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Outcome, Step


def policy(root):
    """One that knows nothing of the task, so that the operator takes over."""
    import numpy as np

    from robopref.policies.compact import build_compact_policy

    rng = np.random.default_rng(0)
    made = build_compact_policy(
        ("proprio",), {"proprio": rng.normal(size=(50, 4)).astype(np.float32)}, rng.uniform(-1, 1, (50, 4)), {}, 0, 16
    )
    made.save(root / "base")
    return str(root / "base")


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    from robopref.cli.demos import Demos, run_demos

    root = tmp_path_factory.mktemp("lifelong")
    assert run_demos(Demos(root / "demos", ("reach",), 1, False, workers=1))
    config = settings(root, root / "run", rounds=1)
    assert run_lifelong(config)
    return root


def settings(root, out, **options):
    small = {
        "policy": policy(root), "demos": (root / "demos",), "out": out, "task": "reach", "rounds": 2,
        "episodes_per_round": 1, "evaluation_episodes": 2, "steps": 3, "batch_size": 8, "image": False,
        "device": "cpu", "wandb": "disabled", "workers": 1,
    }  # fmt: skip
    return Lifelong(**small | options)


def test_each_round_deploys_and_refines_the_policy_of_the_last(started):
    run = started / "run"
    assert run_lifelong(settings(started, run, rounds=2, resume=True))  # more rounds, from where the first run ended
    told = read_json(run / "rounds.json")
    assert [r["number"] for r in told["rounds"]] == [0, 1, 2]
    for number in (1, 2):
        here = round_directory(run, number)
        before = policy(started) if number == 1 else str(round_directory(run, 1) / "refine")
        store = EpisodeStore.open(here / "interactions")
        assert {store.read(i).info.policy_id for i in store.episode_ids()} == {policy_id(before)}
        refined = read_json(here / "refine" / "config.json")["config"]
        assert refined["policy"] == before  # and with it the reference
        assert len(refined["interactions"]) == number  # all rounds so far
    layouts = [[r.seed for r in lifelong.read_results(round_directory(run, n) / "evaluation")] for n in (0, 1, 2)]
    assert layouts[0] == layouts[1] == layouts[2]
    seeds = [
        EpisodeStore.open(round_directory(run, n) / "interactions").info(i).seed
        for n in (1, 2)
        for i in EpisodeStore.open(round_directory(run, n) / "interactions").episode_ids()
    ]
    assert len(set(seeds)) == 2
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2]
    assert (run / "rounds.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (run / "rounds.svg").read_text()


def test_the_default_recipe_is_that_of_refine(started):
    kept = read_json(started / "run" / "config.json")["config"]
    assert (kept["objective"], kept["from_scratch"], kept["include_policy_steps"]) == ("bc", True, "none")
    refined = read_json(round_directory(started / "run", 1) / "refine" / "config.json")["config"]
    assert (refined["objective"], refined["from_scratch"], refined["steps"]) == ("bc", True, 3)
    assert refined["action_smoothing"] == kept["action_smoothing"] == 0.03
    told = read_json(started / "run" / "rounds.json")
    assert (told["method"], told["from_scratch"]) == ("bc", True)


@pytest.mark.parametrize(
    ("objective", "learned_from"), [("apo", "autonomous_success"), ("kto", "autonomous_success"), ("bc", "none")]
)
def test_unaided_successes_are_learned_from_where_preferences_are_weighed(started, objective, learned_from):
    config = settings(started, started / "elsewhere", objective=objective, steps=None)
    chosen = lifelong._with_recipe(config, load_policy(config.policy))
    assert (chosen.include_policy_steps, chosen.from_scratch, chosen.steps) == (learned_from, False, 1000)
    asked = lifelong._with_recipe(replace(config, include_policy_steps="none"), load_policy(config.policy))
    assert asked.include_policy_steps == "none"


def test_what_only_preferences_have_is_refused_before_anything_runs(started, tmp_path):
    with pytest.raises(RoboprefError, match=r"--anchor-weight.*name the objective"):
        run_lifelong(settings(started, tmp_path / "run", anchor_weight=0.5))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "bc", "lora": LoraOptions(lora_rank=3)}, "--lora-"),
        ({"steps": 0}, "--steps"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"action_smoothing": 1.5}, "--action-smoothing"),
        ({"batch_size": 2}, "at least 3 samples"),
        ({"micro_batch_size": 0}, "micro_batch_size"),
        ({"image": True, "perturbation": PerturbationOptions(perturb=("lighting",))}, "lighting"),
        ({"demos": (Path("nowhere"),)}, "nowhere is no data directory"),
    ],
)
def test_what_cannot_be_refined_so_is_said_before_anything_runs(started, tmp_path, options, said):
    with pytest.raises(RoboprefError, match=said):
        run_lifelong(settings(started, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_left_to_itself_it_trains_as_long_as_refine_does(started):
    config = settings(started, started / "elsewhere", steps=None)
    assert lifelong._with_recipe(config, load_policy(config.policy)).steps == 5000


def test_a_round_may_begin_from_fresh_weights(started, tmp_path):
    from robopref.policies.compact import CompactPolicy

    assert run_lifelong(
        settings(started, tmp_path / "run", rounds=1, objective="apo", from_scratch=True, seed=1, action_smoothing=0.0)
    )  # the base is fresh weights of seed 0
    config = read_json(round_directory(tmp_path / "run", 1) / "refine" / "config.json")["config"]
    assert config["action_smoothing"] == 0.0
    refined = CompactPolicy.load(round_directory(tmp_path / "run", 1) / "refine" / "policy")
    before = CompactPolicy.load(started / "base")
    moved = max((a - b).abs().max() for a, b in zip(before.parameters(), refined.parameters(), strict=True))
    assert moved > 0.1  # three small steps move a weight by a few thousandths


def test_rates_come_with_their_intervals(started):
    first = read_json(started / "run" / "rounds.json")["rounds"][1]
    assert first["takeover_rate"]["n"] == 1
    assert first["evaluation_success"]["n"] == first["evaluation_intervention"]["n"] == 2
    assert first["gain"]["low"] <= first["gain"]["value"] <= first["gain"]["high"]
    share = first["human_share"]
    assert 0 < share["low"] <= share["value"] <= share["high"] < 1
    (interactions,) = EpisodeStore.open(round_directory(started / "run", 1) / "interactions")
    assert share["value"] == pytest.approx((interactions.actor == Actor.HUMAN).mean())
    assert share["n"] == 1


def test_other_settings_are_refused(started):
    with pytest.raises(RoboprefError, match=r"other settings \(episodes_per_round\)"):
        run_lifelong(settings(started, started / "run", episodes_per_round=3, resume=True))
    with pytest.raises(RoboprefError, match="add --resume"):
        run_lifelong(settings(started, started / "run"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rounds": 0}, "--rounds runs from 1"),
        ({"seed": 100}, "--seed from 0"),
        ({"seed": -1}, "--seed from 0"),
        ({"evaluation_episodes": 0}, "--evaluation-episodes runs from 1"),
        ({"episodes_per_round": 0}, "--episodes-per-round runs from 1"),
        ({"patience": 0}, "--patience is at least 1"),
        ({"target_success": 1.5}, "--target-success lies between"),
    ],
)
def test_settings_out_of_range_are_named(tmp_path, options, said):
    (tmp_path / "demos").mkdir()
    with pytest.raises(RoboprefError, match=said):
        run_lifelong(settings(tmp_path, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_a_wish_to_stop_that_came_with_the_last_episode_is_not_lost(started, tmp_path, monkeypatch):
    evaluate = lifelong.run_evaluate

    def evaluate_and_interrupt(config):
        finished = evaluate(config)
        with graceful_interrupt():
            os.kill(os.getpid(), signal.SIGINT)
        return finished

    monkeypatch.setattr(lifelong, "run_evaluate", evaluate_and_interrupt)
    assert not run_lifelong(settings(started, tmp_path / "run"))
    assert not round_directory(tmp_path / "run", 1).exists()


def test_an_episode_that_a_crash_cut_off_counts_once(started, tmp_path):
    config = settings(started, tmp_path / "run", rounds=1, episodes_per_round=2)
    deployment = lifelong._deployment(config, 1)
    assert run_deployment(deployment)
    store = EpisodeStore.open(deployment.out)
    first = store.read(store.episode_ids()[0])
    with store.begin(first.info) as writer:
        for t in range(3):
            writer.append(Step({k: v[t] for k, v in first.observation.items()}, first.action[t], Actor.HUMAN))
        writer.finish(Outcome.ABORTED)
    learned_from = tmp_path / "refine"
    learned_from.mkdir()
    (learned_from / "config.json").write_text("{}")
    assert run_deployment(deployment, learned_from)  # a run that was begun before goes on with its data
    assert lifelong._deployment_rates(deployment.out)[0].n == 3
    assert run_deployment(deployment, tmp_path / "not begun")
    assert lifelong._deployment_rates(deployment.out)[0].n == 2


def test_no_stage_has_the_first_policy_in_memory(started, tmp_path, monkeypatch):
    loaded = []

    def load(*arguments, **options):
        policy = load_policy(*arguments, **options)
        loaded.append(weakref.ref(policy))
        return policy

    def evaluate(config):
        gc.collect()
        assert loaded[0]() is None
        return False

    monkeypatch.setattr("robopref.policies.registry.load_policy", load)
    monkeypatch.setattr(lifelong, "run_evaluate", evaluate)
    assert not run_lifelong(settings(started, tmp_path / "run"))
    assert loaded


def test_weights_are_held_in_every_round_as_in_the_first(started, tmp_path):
    config = settings(started, tmp_path / "run", vla=VLAOptions(adapter="somewhere", weights="4bit"))
    (later,) = lifelong._evaluations(config, 1)
    assert later.vla == lifelong._deployment(config, 2).vla == VLAOptions(weights="4bit")


def test_without_any_takeover_it_stops_and_says_so(started, tmp_path, monkeypatch):
    monkeypatch.setattr(lifelong, "_takeovers", lambda config, number: 0)
    assert run_lifelong(settings(started, tmp_path / "run"))
    told = read_json(tmp_path / "run" / "rounds.json")
    assert "never took over" in told["stopped"]
    assert len(told["rounds"]) == 1
    assert not (round_directory(tmp_path / "run", 1) / "refine").exists()


def test_under_a_perturbation_what_was_forgotten_is_told(started, tmp_path):
    scene = PerturbationOptions(perturb=("position",))
    assert run_lifelong(settings(started, tmp_path / "run", rounds=1, evaluation_episodes=1, perturbation=scene))
    told = read_json(tmp_path / "run" / "rounds.json")
    assert told["perturb"] == ["position"]
    for this in told["rounds"]:
        assert this["original_success"]["n"] == 1
    assert told["rounds"][1]["original_gain"]["low"] <= 0 <= told["rounds"][1]["original_gain"]["high"]
    here = round_directory(tmp_path / "run", 1)
    configs = [read_json(here / name / "config.json")["config"] for name in ("evaluation", "evaluation-original")]
    assert [c["perturbation"]["perturb"] for c in configs] == [["position"], []]
    store = EpisodeStore.open(here / "interactions")
    assert store.info(store.episode_ids()[0]).extra["perturb"] == ["position"]


def rounds(*successes, n=20):
    rate = [Rate.of(s, n) for s in successes]
    return [Round(i, "", None, None, r, r, None) for i, r in enumerate(rate)]


def test_when_to_stop():
    config = Lifelong("", (), None, patience=2, target_success=0.8)
    stop = lifelong._reason_to_stop
    assert not stop(config, rounds(5, 4))  # one round without gain
    assert "2 rounds did not raise the success rate above 25.0 %" in stop(config, rounds(5, 4, 5))
    assert not stop(config, rounds(5, 4, 6))
    assert not stop(config, rounds(5, 18))  # 90 %, but the interval reaches down to 70 %
    assert "at least 80.0 %" in stop(config, rounds(5, 20))
    assert not stop(Lifelong("", (), None), rounds(5, 4, 3, 2, 20))


def test_the_rates_of_a_deployment_do_not_depend_on_which_process_finished_first(tmp_path):
    made = [episode([Actor.POLICY] * (40 + i) + [Actor.HUMAN] * (i * i % 13), seed=i) for i in range(12)]
    rates = []
    for name, order in (("first", made), ("second", made[::-1])):
        store = EpisodeStore.create_or_open(tmp_path / name)
        for one in order:
            store.add(one)
        rates.append(lifelong._deployment_rates(store.path))
    assert rates[0] == rates[1]
    assert rates[0][1].low < rates[0][1].value < rates[0][1].high
