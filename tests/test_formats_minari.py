"""Minari data sets out and in, read with minari itself and made with its collector."""

from dataclasses import replace

import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import episode

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.store.formats.base import ConversionOptions
from robopref.store.formats.minari_export import export_minari
from robopref.store.formats.minari_import import import_minari
from robopref.trajectory import Actor

POLICY, HUMAN, EXPERT, HOLD = Actor.POLICY, Actor.HUMAN, Actor.EXPERT, Actor.HOLD
ACTORS = [POLICY, POLICY, HUMAN, HOLD, HUMAN, POLICY]


def stored(path, *episodes):
    store = EpisodeStore.create_or_open(path)
    for number, one in enumerate(episodes):
        store.add(replace(one, info=replace(one.info, episode_id=one.info.episode_id or f"e{number}")))
    return store


def files(store):
    return {file.name: file.read_bytes() for file in (store.path / "episodes").iterdir()}


def with_pictures(one, size=40):
    rng = np.random.default_rng(3)
    pictures = rng.integers(0, 256, (len(one) + 1, size, size, 3), dtype=np.uint8)
    observation = {**one.observation, "images/wrist": pictures[:-1], "touch": np.arange(len(one)) % 2 == 0}
    final = {**one.final_observation, "images/wrist": pictures[-1], "touch": np.array(True)}
    return replace(one, observation=observation, final_observation=final)


def test_minari_reads_every_value(tmp_path):
    one = with_pictures(episode(ACTORS))
    store = stored(tmp_path / "store", one, with_pictures(episode([EXPERT] * 3, 2)))
    told = export_minari(store, tmp_path / "out", ConversionOptions())
    assert (told.episodes, told.steps, told.lost) == (2, 9, ())
    dataset = minari.MinariDataset(tmp_path / "out/data")
    assert (dataset.id, dataset.total_episodes, dataset.total_steps) == ("robopref/out-v0", 2, 9)
    assert len(dataset.sample_episodes(2)) == 2
    read = dataset[0]
    for key, value in (("state", read.observations["state"]), ("images/wrist", read.observations["images"]["wrist"])):
        assert np.array_equal(value[:-1], one.observation[key])
        assert np.array_equal(value[-1], one.final_observation[key])
    assert dataset.observation_space["images"]["wrist"].shape == (40, 40, 3)
    assert all(dataset.action_space.contains(action) for action in read.actions)
    assert np.array_equal(read.actions, one.action)
    assert np.array_equal(read.rewards, one.reward)
    assert np.array_equal(read.terminations, one.terminated)
    assert np.array_equal(read.truncations, one.truncated)
    for name in ("policy_action", "human_action", "actor", "segment_id", "success", "t_monotonic_ns"):
        np.testing.assert_array_equal(read.infos[name], getattr(one, name))
    assert [len(e) for e in dataset.iterate_episodes()] == [6, 3]


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(list(Actor)), min_size=1, max_size=6), st.booleans()), min_size=1, max_size=3
    ),
    st.booleans(),
    st.booleans(),
    st.text(max_size=5),
)
def test_a_round_trip_gives_the_same_files(tmp_path_factory, shapes, discrete, pictures, words):
    path = tmp_path_factory.mktemp("trip")
    episodes = []
    for seed, (actors, final) in enumerate(shapes):
        one = episode(actors, seed, discrete=discrete, instruction=words, extra={"words": words, "n": [1.5, None]})
        one = with_pictures(one, 33) if pictures else one
        episodes.append(one if final else replace(one, final_observation={}))
    store = stored(path / "store", *episodes)
    export_minari(store, path / "out", ConversionOptions())
    back = EpisodeStore.create_or_open(path / "back")
    told = import_minari(path / "out", back, ConversionOptions())
    assert told.lost == told.invented == ()
    assert files(back) == files(store)


def test_a_missing_last_observation_is_said_and_left_out_again(tmp_path):
    store = stored(tmp_path / "store", replace(episode(ACTORS), final_observation={}))
    told = export_minari(store, tmp_path / "out", ConversionOptions())
    assert "the last of 1 episodes repeats" in " ".join(told.invented)
    state = minari.MinariDataset(tmp_path / "out/data")[0].observations["state"]
    assert len(state) == 7
    assert np.array_equal(state[-1], state[-2])
    back = EpisodeStore.create_or_open(tmp_path / "back")
    import_minari(tmp_path / "out", back, ConversionOptions())
    assert back.read("e0").final_observation == {}


def test_append_adds_what_is_missing(tmp_path):
    store = stored(tmp_path / "store", episode(ACTORS, discrete=True))
    export_minari(store, tmp_path / "out", ConversionOptions())
    with pytest.raises(RoboprefError, match="exists already"):
        export_minari(store, tmp_path / "out", ConversionOptions())
    more = episode(ACTORS, 2, discrete=True, episode_id="more")
    store.add(replace(more, action=more.action + 4, policy_action=more.policy_action + 4))
    told = export_minari(store, tmp_path / "out", ConversionOptions(append=True))
    assert told.episodes == 1
    assert told.skipped[0].startswith("e0: ")
    dataset = minari.MinariDataset(tmp_path / "out/data")
    assert (len(dataset), dataset.total_steps, dataset.action_space) == (2, 12, spaces.Discrete(5))
    assert export_minari(store, tmp_path / "out", ConversionOptions(append=True)).episodes == 0
    other = stored(tmp_path / "other", episode(ACTORS, state_size=7, episode_id="other"))
    with pytest.raises(RoboprefError, match="holds observations of"):
        export_minari(other, tmp_path / "out", ConversionOptions(append=True))
    assert len(minari.MinariDataset(tmp_path / "out/data")) == 2
    assert not list(tmp_path.glob(".*partial"))
