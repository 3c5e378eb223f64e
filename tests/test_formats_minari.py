"""Minari data sets out and in, read with minari itself and made with its collector."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from synthetic import episode

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.store.formats.base import ConversionOptions
from robopref.store.formats.minari_export import export_minari
from robopref.store.formats.minari_import import import_minari
from robopref.trajectory import Actor, Outcome

POLICY, HUMAN, EXPERT, HOLD = Actor.POLICY, Actor.HUMAN, Actor.EXPERT, Actor.HOLD
OPTIONS = ConversionOptions()
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


@settings(max_examples=8)
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


def test_a_target_may_be_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = stored(tmp_path / "store", episode(ACTORS))
    export_minari(store, Path("out"), ConversionOptions())
    assert len(minari.MinariDataset("out/data")) == 1


@pytest.mark.parametrize("append", [False, True])
def test_what_was_finished_stays_when_an_export_is_stopped(tmp_path, append):
    store = stored(tmp_path / "store", *[episode(ACTORS, seed) for seed in range(3)])
    if append:
        export_minari(stored(tmp_path / "first", episode(ACTORS, 9, episode_id="a")), tmp_path / "out", OPTIONS)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_minari(store, tmp_path / "out", ConversionOptions(progress=stop, append=append))
    assert len(minari.MinariDataset(tmp_path / "out/data")) == 2 + append
    assert export_minari(store, tmp_path / "out", ConversionOptions(append=True)).episodes == 1
    back = EpisodeStore.create_or_open(tmp_path / "back")
    import_minari(tmp_path / "out", back, OPTIONS)
    assert files(store).items() <= files(back).items()
    assert not list(tmp_path.glob(".*partial"))


def test_what_dies_while_writing_or_moving_leaves_a_readable_data_set(tmp_path):
    store = stored(tmp_path / "store", episode(ACTORS))
    beside = tmp_path / ".out.partial/data"
    beside.mkdir(parents=True)
    (beside / "main_data.hdf5").write_bytes(b"half")
    export_minari(store, tmp_path / "out", OPTIONS)
    old = (tmp_path / "out/data/metadata.json").read_bytes()
    stored(tmp_path / "store", episode(ACTORS, 5, episode_id="more"))
    export_minari(store, tmp_path / "out", ConversionOptions(append=True))
    (tmp_path / "out/data/metadata.json").write_bytes(old)  # the data were moved, the metadata not yet
    assert len(minari.MinariDataset(tmp_path / "out/data")) == 1
    assert export_minari(store, tmp_path / "out", ConversionOptions(append=True)).episodes == 1
    dataset = minari.MinariDataset(tmp_path / "out/data")
    assert (len(dataset), dataset.total_steps, len(list(dataset))) == (2, 12, 2)


def foreign(tmp_path, monkeypatch, buffers, name="there/foreign-v0", **keywords):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of authors and links that are not given
        minari.create_dataset_from_buffers(name, buffers, **keywords)
    return tmp_path / "datasets" / name


def played(environment, seed):
    """An episode of an environment with random actions."""
    observation, _ = environment.reset(seed=seed)
    environment.action_space.seed(seed)
    seen, acted, rewarded, ended, cut = [observation], [], [], [], []
    while not (ended and (ended[-1] or cut[-1])):
        acted.append(environment.action_space.sample())
        observation, reward, terminated, truncated, _ = environment.step(acted[-1])
        seen.append(observation)
        rewarded.append(reward)
        ended.append(terminated)
        cut.append(truncated)
    return EpisodeBuffer(
        seed=seed, observations=seen, actions=acted, rewards=rewarded, terminations=ended, truncations=cut
    )


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_data_set_of_an_environment(tmp_path, monkeypatch, name):
    environment = gym.make(name, max_episode_steps=12)
    buffers = [played(environment, seed) for seed in range(3)]
    path = foreign(tmp_path, monkeypatch, buffers, env=environment)
    store = EpisodeStore.create_or_open(tmp_path / "store")
    told = import_minari(path, store, ConversionOptions())
    assert store.verify() == []
    assert told.episodes == 3
    for one, buffer in zip(store, buffers, strict=True):
        assert np.array_equal(one.observation["state"], buffer.observations[:-1])
        assert np.array_equal(one.final_observation["state"], buffer.observations[-1])
        assert np.array_equal(one.action, buffer.actions)
        assert np.array_equal(one.reward, buffer.rewards)
        assert set(one.actor) == {EXPERT}
        assert np.array_equal(np.diff(one.t_monotonic_ns), [50_000_000] * (len(one) - 1))
        assert (one.info.task, one.info.seed, one.info.outcome) == (name, buffer.seed, Outcome.ABORTED)
    said = " ".join(told.invented)
    assert all(word in said for word in ("EXPERT", "20 steps per second", "outcome"))
    with pytest.raises(RoboprefError, match="already has it"):
        import_minari(path, store, ConversionOptions())
    assert len(import_minari(path, store, ConversionOptions(append=True)).skipped) == 3
    quick = EpisodeStore.create_or_open(tmp_path / "quick")
    import_minari(path, quick, ConversionOptions(fps=100, task="other"))
    assert next(iter(quick)).info.task == "other"
    assert next(iter(quick)).t_monotonic_ns[1] == 10_000_000


def buffer_of(observations, length=4, **changed):
    values = {
        "actions": np.arange(length) % 3 + 5,
        "rewards": np.arange(length) == length - 1,
        "terminations": np.arange(length) == length - 1,
        "truncations": np.zeros(length, bool),
    }
    return EpisodeBuffer(observations=observations, **values | changed)


NESTED = spaces.Dict(
    {
        "arm": spaces.Dict({"joints": spaces.Box(-1, 1, (3,), np.float64), "mode": spaces.Discrete(4)}),
        "pair": spaces.Tuple([spaces.Box(0, 255, (2,), np.uint8), spaces.MultiBinary(3)]),
    }
)


def nested(length=5):
    return {
        "arm": {"joints": np.linspace(-1, 1, 3 * length).reshape(length, 3), "mode": np.arange(length) % 4},
        "pair": (np.full((length, 2), 7, np.uint8), np.ones((length, 3), np.int8)),
    }


def test_nested_observations_numbered_actions_and_successes(tmp_path, monkeypatch):
    buffers = [
        buffer_of(nested(), infos={"is_success": [False, False, False, True, False], "energy": np.arange(5.0)}),
        buffer_of(nested(), infos={"is_success": [True, False, False, False, False], "energy": np.arange(5.0)}),
        buffer_of(nested()),
        buffer_of(nested(), rewards=np.ones(4)),
    ]
    spaces_given = {"observation_space": NESTED, "action_space": spaces.Discrete(3, start=5)}
    path = foreign(tmp_path, monkeypatch, buffers, **spaces_given)
    store = EpisodeStore.create_or_open(tmp_path / "store")
    told = import_minari(path, store, ConversionOptions())
    assert store.verify() == []
    episodes = list(store)
    assert sorted(episodes[0].observation) == ["arm/joints", "arm/mode", "pair/0", "pair/1"]
    assert np.array_equal(episodes[0].observation["arm/joints"], nested()["arm"]["joints"][:4])
    assert np.array_equal(episodes[0].observation["pair/0"], nested()["pair"][0][:4])
    assert episodes[0].action.tolist() == [0, 1, 2, 0]
    assert [one.info.outcome for one in episodes] == [
        Outcome.SUCCESS,
        Outcome.FAILURE,  # what held before the first action is of no step
        Outcome.SUCCESS,
        Outcome.ABORTED,
    ]
    assert episodes[0].success.tolist() == [False, False, True, False]
    assert episodes[2].success.tolist() == [False, False, False, True]
    assert any("not from 5" in line for line in told.invented)
    assert any("infos/energy" in line for line in told.lost)


def test_spaces_that_are_no_arrays_are_refused_by_name(tmp_path, monkeypatch):
    space = spaces.Dict({"arm": spaces.Dict({"said": spaces.Text(5)})})
    buffer = buffer_of({"arm": {"said": ["a"] * 5}})
    path = foreign(tmp_path, monkeypatch, [buffer], observation_space=space, action_space=spaces.Discrete(3, start=5))
    store = EpisodeStore.create_or_open(tmp_path / "store")
    with pytest.raises(RoboprefError, match="observations/arm/said is a Text space"):
        import_minari(path, store, ConversionOptions())
    actions = {"a": np.zeros((4, 1), np.float32)}
    space = {"observation_space": NESTED, "action_space": spaces.Dict({"a": spaces.Box(0, 1, (1,))})}
    path = foreign(tmp_path, monkeypatch, [buffer_of(nested(), actions=actions)], "there/other-v0", **space)
    with pytest.raises(RoboprefError, match="one array of actions"):
        import_minari(path, store, ConversionOptions())
    assert len(store) == 0


def truncate(data):
    file = data / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:5000])


def lose_a_column(data):
    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file["episode_1/infos/actor"]


def lose_an_episode(data):
    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file["episode_1"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: (data / "metadata.json").unlink(), "no Minari data set"),
        (lambda data: (data / "metadata.json").write_text("{"), "metadata.json cannot be read"),
        (lambda data: (data / "metadata.json").write_text("{}"), "does not tell the spaces"),
        (lambda data: (data / "main_data.hdf5").unlink(), "cannot be read"),
        (truncate, "cannot be read"),
        (lose_a_column, "episode 1: infos lack 'actor'"),
        (lose_an_episode, "episode 1: .* cannot be read"),
    ],
)
def test_damage_is_said_where_it_is(tmp_path, damage, said):
    export_minari(stored(tmp_path / "store", episode(ACTORS), episode(ACTORS, 2)), tmp_path / "out", OPTIONS)
    damage(tmp_path / "out/data")
    with pytest.raises(RoboprefError, match=said):
        import_minari(tmp_path / "out", EpisodeStore.create_or_open(tmp_path / "back"), OPTIONS)


def test_names_that_would_be_one_place_are_refused(tmp_path):
    one = episode(ACTORS)
    inside = {**one.observation, "state/inner": one.observation["state"]}
    store = stored(tmp_path / "store", replace(one, observation=inside, final_observation={}))
    with pytest.raises(RoboprefError, match="state/inner"):
        export_minari(store, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_long_information_and_data_sets_that_minari_combined(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    first = stored(tmp_path / "first", episode(ACTORS, extra={"long": "x" * 100_000}))
    second = stored(tmp_path / "second", episode(ACTORS, 2, episode_id="other"))
    (tmp_path / "datasets").mkdir()
    for number, store in enumerate((first, second)):
        export_minari(store, tmp_path / f"out{number}", OPTIONS)
    parts = [minari.MinariDataset(tmp_path / f"out{number}/data") for number in range(2)]
    minari.combine_datasets(parts, "both-v0")
    back = EpisodeStore.create_or_open(tmp_path / "back")
    import_minari(tmp_path / "datasets/both-v0", back, OPTIONS)
    assert files(back) == files(first) | files(second)


@pytest.mark.parametrize("package", ["minari", "PIL"])
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, package):
    store = stored(tmp_path / "store", episode(ACTORS))
    export_minari(store, tmp_path / "out", OPTIONS)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RoboprefError, match=r"pip install .minari\[hdf5\]>=0.5.4. pillow"):
        import_minari(tmp_path / "out", store, OPTIONS)
    with pytest.raises(RoboprefError, match="pip install"):
        export_minari(store, tmp_path / "other", OPTIONS)
    assert not (tmp_path / "other").exists()


def test_only_hdf5_is_appended_to_but_arrow_is_read(tmp_path, monkeypatch):
    buffers = [buffer_of(nested()["arm"])]
    given = {"observation_space": NESTED["arm"], "action_space": spaces.Discrete(8), "data_format": "arrow"}
    path = foreign(tmp_path, monkeypatch, buffers, **given)
    store = EpisodeStore.create_or_open(tmp_path / "store")
    assert import_minari(path, store, OPTIONS).steps == 4
    assert np.array_equal(next(iter(store)).observation["joints"], nested()["arm"]["joints"][:4])
    with pytest.raises(RoboprefError, match="not kept as HDF5"):
        export_minari(store, path, ConversionOptions(append=True))
