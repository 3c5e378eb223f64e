"""SERL's pickles: only with trust, split into episodes, interventions kept where they were noted."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robopref.cli.fitting import load_episodes
from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
from robopref.store import EpisodeStore
from robopref.store.formats.base import ConversionOptions
from robopref.store.formats.serl import import_serl
from robopref.trajectory import Actor, Label, Outcome

TRUST = ConversionOptions(trust=True)
BY_EXPERT = replace(TRUST, actor=Actor.EXPERT)


def seen(t):
    return {"state": np.full((1, 4), t, np.float32), "wrist_1": np.full((1, 8, 8, 3), t, np.uint8)}


def transition(t, *, done=False, reward=0.0, infos=None, **changes):
    entry = {
        "observations": seen(t), "next_observations": seen(t + 1), "actions": np.full(6, t / 10, np.float32),
        "rewards": reward, "masks": 1.0 - done, "dones": done,
    }  # fmt: skip
    if infos is not None:
        entry["infos"] = infos
    return entry | changes


def pickled(path, transitions):
    path.write_bytes(pickle.dumps(transitions))
    return path


def imported(tmp_path, transitions, options=TRUST):
    store = EpisodeStore.create_or_open(tmp_path / "store")
    return store, import_serl(pickled(tmp_path / "demos.pkl", transitions), store, options)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_of_a_pickle_runs_without_trust(tmp_path):
    from robopref.cli.data_formats import detect

    mark = tmp_path / "it ran"
    path = pickled(tmp_path / "demos.pkl", [Malicious(mark)])
    assert detect(path) == "serl"
    with pytest.raises(RoboprefError, match=r"executes whatever code it holds.*--trust"):
        import_serl(path, EpisodeStore.create_or_open(tmp_path / "store"), ConversionOptions())
    assert not mark.exists()
    with pytest.raises(RoboprefError, match="holds a list of NoneType"):
        import_serl(path, EpisodeStore.open(tmp_path / "store"), TRUST)
    assert mark.exists()  # the test would notice


def by_human(value, **others):
    return {"intervene_action": np.full(6, value, np.float32), **others}


def test_interventions_and_episodes_are_found(tmp_path):
    # As record_demos.py writes: the person's action stands in "actions", and where they pause zeros do.
    first = [
        transition(0, infos={}),  # its action is zero
        transition(1, infos=by_human(0.1)),
        transition(2, infos=by_human(0.2, succeed=True), done=True),
    ]
    second = [transition(9, infos={}), transition(10, infos={}, done=True)]
    open_end = [transition(20, infos={}, reward=1.0)]
    store, told = imported(tmp_path, first + second + open_end)
    one, two, three = store
    assert one.actor.tolist() == [Actor.HOLD, Actor.HUMAN, Actor.HUMAN]
    assert one.segment_id.tolist() == [-1, 0, 0]
    np.testing.assert_allclose(one.action[:, 0], [0, 0.1, 0.2])
    np.testing.assert_array_equal(one.human_action[1:], one.action[1:])
    assert np.isnan(one.human_action[0]).all()
    assert np.isnan(one.policy_action).all()
    assert {key: value.shape for key, value in one.observation.items()} == {"state": (3, 4), "wrist_1": (3, 8, 8, 3)}
    np.testing.assert_array_equal(one.observation["state"][:, 0], [0, 1, 2])
    np.testing.assert_array_equal(one.final_observation["state"], np.full(4, 3))
    assert [e.info.outcome for e in (one, two, three)] == [Outcome.SUCCESS, Outcome.FAILURE, Outcome.ABORTED]
    assert one.success.tolist() == one.terminated.tolist() == [False, False, True]
    assert two.actor.tolist() == [Actor.POLICY] * 2  # in a file that notes interventions, and has none there
    assert three.reward.tolist() == [1.0]
    assert (told.episodes, told.steps) == (3, 6)
    assert told.lost == ("masks: of the transitions.",)
    assert one.info.extra["hz"] == 10
    again = import_serl(tmp_path / "demos.pkl", store, replace(TRUST, append=True))
    assert (again.episodes, len(again.skipped)) == (0, 3)


def test_pauses_of_a_demonstrator_are_nobodys_and_label_nothing(tmp_path):
    entries = [transition(0, infos={}), transition(0, infos=by_human(0.5), actions=np.full(6, 0.5, np.float32))]
    entries[0]["next_observations"] = seen(0)
    store, _ = imported(tmp_path, entries)
    labels = LabelingRule(window=10).apply(next(iter(store)))
    assert labels.tolist() == [Label.EXCLUDED, Label.HUMAN]


def test_what_was_proposed_is_kept_where_it_differs_from_what_the_person_did(tmp_path):
    store, _ = imported(tmp_path, [transition(1, infos=by_human(0.5))])
    (one,) = store
    np.testing.assert_allclose(one.action, 0.5)
    np.testing.assert_allclose(one.human_action, 0.5)
    np.testing.assert_allclose(one.policy_action, 0.1)


@pytest.mark.parametrize("infos", [None, {}, {"succeed": True}])
def test_files_that_do_not_say_who_acted_are_refused_until_the_user_does(tmp_path, infos):
    """As training writes them: its buffer mixes policy and person, and a rollout is no demonstration."""
    rollout = [transition(1, infos=infos), transition(2, infos=infos, done=True, reward=1.0)]
    with pytest.raises(RoboprefError, match=r"does not say who acted.*--actor human for the steps of its demo_buffer"):
        imported(tmp_path, rollout)
    assert len(EpisodeStore.open(tmp_path / "store")) == 0
    store, _ = imported(tmp_path, rollout, replace(TRUST, actor=Actor.HUMAN))
    (one,) = store
    assert one.actor.tolist() == [Actor.HUMAN] * 2
    np.testing.assert_array_equal(one.human_action, one.action)


def test_a_persons_fragments_are_learned_from(tmp_path):
    """HIL-SERL's demo_buffer: intervened steps only, so that episodes are torn; refine takes them all."""
    fragments = [transition(1), transition(2), transition(8), transition(9)]
    store, _ = imported(tmp_path, fragments, replace(TRUST, actor=Actor.HUMAN))
    assert [one.info.outcome for one in store] == [Outcome.ABORTED] * 2
    loaded = load_episodes([store.path]).episodes
    assert [LabelingRule().apply(one).tolist() for one in loaded] == [[Label.HUMAN] * 2] * 2


def test_how_episodes_ended_may_be_said(tmp_path):
    entries = [transition(1), transition(2), transition(7), transition(8, done=True)]
    store, _ = imported(tmp_path, entries, replace(BY_EXPERT, outcome=Outcome.SUCCESS))
    assert [one.info.outcome for one in store] == [Outcome.SUCCESS, Outcome.FAILURE]  # what is known stands


def test_a_break_in_what_was_seen_begins_an_episode(tmp_path):
    store, _ = imported(tmp_path, [transition(0), transition(1), transition(7), transition(8)], BY_EXPERT)
    assert [len(one) for one in store] == [2, 2]


def test_stacked_observations_keep_the_newest(tmp_path):
    def stacked(t):
        return {"state": np.array([[t - 1.0], [t]]), "cam": np.stack([np.full((4, 4, 3), s, np.uint8) for s in (0, t)])}

    entries = [transition(t, observations=stacked(t), next_observations=stacked(t + 1)) for t in range(1, 4)]
    store, told = imported(tmp_path, entries, BY_EXPERT)
    (one,) = store
    assert one.observation["state"].tolist() == [[1], [2], [3]]
    assert one.observation["cam"][:, 0, 0, 0].tolist() == [1, 2, 3]
    assert one.final_observation["state"].tolist() == [4]
    assert any("newest of 2 stacked" in sentence for sentence in told.invented)


def test_nested_and_flat_observations(tmp_path):
    entries = [
        transition(
            t, observations={"state": {"pose": np.ones(3) * t}}, next_observations={"state": {"pose": np.ones(3)}}
        )
        for t in range(2)
    ]
    store, _ = imported(tmp_path, entries, BY_EXPERT)
    assert list(store.read(store.episode_ids()[0]).observation) == ["state/pose"]
    plain = [transition(t, observations=np.ones(3), next_observations=np.ones(3)) for t in range(2)]
    other = EpisodeStore.create_or_open(tmp_path / "other")
    import_serl(pickled(tmp_path / "plain.pkl", plain), other, BY_EXPERT)
    assert list(other.read(other.episode_ids()[0]).observation) == ["state"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": 1}, "holds an object of dict, not a list of transitions"),
        ([1, 2], "holds a list of int, not a list of transitions"),
        ([], "holds a list of nothing"),
        ([transition(0), {"observations": 1}], "transition 1 lacks 'actions'"),
        ([transition(0), transition(1, actions=np.zeros(5, np.float32))], r"transitions 0 to 1: step 1: actions is"),
        ([transition(0, actions=np.full(6, np.nan))], "transitions 0 to 0: .*NaN"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, found, said):
    with pytest.raises(RoboprefError, match=said):
        imported(tmp_path, found, BY_EXPERT)


def test_half_a_pickle_is_refused(tmp_path):
    whole = pickle.dumps([transition(0)])
    (tmp_path / "half.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RoboprefError, match=r"half\.pkl cannot be read"):
        import_serl(tmp_path / "half.pkl", EpisodeStore.create_or_open(tmp_path / "store"), TRUST)
