import json

import pytest

from robopref.dqn.evaluation import play
from robopref.envs.ale import AtariSpec, check_policy_fits
from robopref.errors import RoboprefError
from robopref.policies.q_checkpoint import load_q_network
from robopref.policies.q_loading import load_q_policy
from robopref.policies.shipped import shipped_policies, shipped_policy

NAMES = sorted(shipped_policies())


def test_two_games_have_a_plain_and_a_certified_policy():
    told = {name: load_q_network(shipped_policy(name))[1] for name in NAMES}
    have = {(about["game"], about["algorithm"]) for about in told.values()}
    assert have >= {(game, kind) for game in ("pong", "freeway") for kind in ("DDQN", "SA-DDQN")}
    assert all(about["init"] in (None, *NAMES) for about in told.values())


@pytest.mark.parametrize("name", NAMES)
def test_each_says_where_it_comes_from_and_is_small(name):
    directory = shipped_policy(name)
    assert (directory / "policy.safetensors").stat().st_size < 5e6
    spec = load_q_policy(name)[1]
    check_policy_fits(spec, AtariSpec(spec.game))
    about = load_q_network(directory)[1]
    trained, chance = about["scores"]["policy"], about["scores"]["random"]
    assert trained["n"] >= 30
    assert trained["low"] > chance["high"]  # nothing that plays at chance is shipped
    steps = [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert 0 <= about["training"]["steps"] - steps[-1] < 2000  # a row every 2000


@pytest.mark.slow
def test_the_freeway_policy_plays_as_well_as_it_says():
    directory = shipped_policy("freeway-ddqn-v1")
    network, about = load_q_network(directory)
    spec = AtariSpec(**about["environment"])
    scores = play(network, spec, episodes=2, seed=77)
    told = about["scores"]["policy"]["scores"]
    assert min(told) - 3 <= min(scores)
    assert max(scores) <= max(told) + 3


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(RoboprefError, match="freeway-ddqn-v1"):
        shipped_policy("freeway-ddqn")
