"""The APO authors' HDF5 files: who acted is taken from their flags, nothing is dropped in silence."""

import h5py
import numpy as np
import pytest

from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
from robopref.store import EpisodeStore
from robopref.store.formats.apo_hdf5 import import_apo
from robopref.store.formats.base import ConversionOptions
from robopref.trajectory import Actor, Label, Outcome

FLAGS = [2] * 4 + [1, 1, 0, 1] + [2] * 4  # twelve steps: timestep_10 comes after timestep_9, not after timestep_1


def action(t):
    return np.linspace(-1, 1, 7) * (t + 1) / 20


def picture(t):
    return np.full((6, 6, 3), t, np.uint8)


def interaction(path, flags=FLAGS, drop=(), **changes):
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data["task_description"] = "put_the cup down"
        for t, flag in enumerate(flags):
            if t in drop:
                continue
            step = data.create_group(f"timestep_{t}")
            step["action"], step["third_obs"], step["is_human"] = action(t), picture(t), flag
        for name, value in changes.items():
            del data[f"timestep_3/{name}"]
            if value is not None:
                data[f"timestep_3/{name}"] = value
    return path


def demonstrations(path):
    with h5py.File(path, "w") as file:
        for n in (10, 9):
            demo = file.create_group(f"demo_{n}")
            demo["task_description"] = "lift"
            for t in range(3):
                demo[f"timestep_{t}/action"], demo[f"timestep_{t}/third_obs"] = action(n + t), picture(n + t)
    return path


def imported(tmp_path, path, **options):
    store = EpisodeStore.create_or_open(tmp_path / "store")
    return store, import_apo(path, store, ConversionOptions(**options))


def test_an_interaction_is_recorded_as_its_flags_say(tmp_path):
    store, told = imported(tmp_path, interaction(tmp_path / "coffee_3.hdf5"), fps=20)
    (one,) = store
    P, H, N = Actor.POLICY, Actor.HUMAN, Actor.HOLD
    assert one.actor.tolist() == [P, P, P, P, H, H, N, H, P, P, P, P]
    assert one.segment_id.tolist() == [-1] * 4 + [0] * 4 + [-1] * 4
    np.testing.assert_array_equal(one.action, [action(t) for t in range(12)])
    np.testing.assert_array_equal(one.observation["image"], [picture(t) for t in range(12)])
    np.testing.assert_array_equal(one.policy_action[:4], one.action[:4])
    assert np.isnan(one.policy_action[4:8]).all()
    np.testing.assert_array_equal(one.human_action[[4, 5, 7]], one.action[[4, 5, 7]])
    assert np.isnan(one.human_action[[0, 6, 11]]).all()
    assert (one.info.task, one.info.instruction, one.info.outcome) == ("coffee_3", "put the cup down", Outcome.ABORTED)
    assert one.t_monotonic_ns[1] == 50_000_000
    assert (told.episodes, told.steps, told.lost, told.skipped) == (1, 12, (), ())
    assert any("judged by nobody" in sentence for sentence in told.invented)
    # The steps before the takeover become undesirable by our rule, the skipped one nothing.
    labels = LabelingRule(window=2).apply(one)
    assert (
        labels.tolist()
        == [Label.POLICY] * 2
        + [Label.UNDESIRABLE] * 2
        + [Label.HUMAN] * 2
        + [Label.EXCLUDED]
        + [Label.HUMAN]
        + [Label.POLICY] * 4
    )


def test_demonstrations_and_folders_come_in(tmp_path):
    folder = tmp_path / "released"
    folder.mkdir()
    demonstrations(folder / "lift.hdf5")
    interaction(folder / "cup.hdf5")
    store, told = imported(tmp_path, folder)
    assert (told.episodes, told.steps) == (3, 18)
    by_group = {info.extra["apo"]["group"]: info for info in map(store.info, store.episode_ids())}
    assert set(by_group) == {"data", "demo_9", "demo_10"}
    assert by_group["demo_9"].outcome is Outcome.SUCCESS
    demo = store.read(by_group["demo_9"].episode_id)
    assert demo.actor.tolist() == [Actor.EXPERT] * 3
    np.testing.assert_array_equal(demo.action, [action(9 + t) for t in range(3)])
    again = import_apo(folder, store, ConversionOptions(append=True))
    assert (again.episodes, len(again.skipped)) == (0, 3)
    with pytest.raises(RoboprefError, match="already has it"):
        import_apo(folder, store, ConversionOptions())


def test_a_gap_is_said(tmp_path):
    store, told = imported(tmp_path, interaction(tmp_path / "a.hdf5", drop=[5]))
    assert len(store.read(store.episode_ids()[0])) == 11
    assert any("timestep_5 is not there" in sentence for sentence in told.invented)


def test_a_skipped_step_without_an_action_is_left_out_and_said(tmp_path):
    path = interaction(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/timestep_6/action"], file["data/timestep_6/third_obs"]
    store, told = imported(tmp_path, path)
    assert len(store.read(store.episode_ids()[0])) == 11
    assert len(told.skipped) == 1
    assert "timestep_6: it has no action" in told.skipped[0]


def test_how_interactions_ended_may_be_said(tmp_path):
    store, told = imported(tmp_path, interaction(tmp_path / "a.hdf5"), outcome=Outcome.FAILURE)
    assert store.info(store.episode_ids()[0]).outcome is Outcome.FAILURE
    assert not any("judged by nobody" in sentence for sentence in told.invented)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action": None}, "data, timestep_3 lacks 'action'"),
        ({"third_obs": None}, "data, timestep_3 lacks 'third_obs'"),
        ({"is_human": None}, "data, timestep_3 lacks 'is_human'"),
        ({"third_obs": np.frombuffer(b"encoded", np.uint8)}, "third_obs is uint8"),
        ({"is_human": 7}, "data, timestep_3: is_human is none of"),
        ({"action": np.zeros(6)}, r"data, timestep_3: action is float64 \[6\], the first is float64 \[7\]"),
        ({"action": np.full(7, np.nan)}, "data, timestep_3: action holds NaN"),
    ],
)
def test_what_is_wrong_is_said_with_its_step(tmp_path, changes, said):
    with pytest.raises(RoboprefError, match=said):
        imported(tmp_path, interaction(tmp_path / "a.hdf5", **changes))
    assert len(EpisodeStore.open(tmp_path / "store")) == 0


def test_other_files_are_refused(tmp_path):
    (tmp_path / "no.hdf5").write_bytes(b"no hdf5")
    with pytest.raises(RoboprefError, match="cannot be read"):
        imported(tmp_path, tmp_path / "no.hdf5")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file.create_group("data")
    with pytest.raises(RoboprefError, match="timestep_0"):
        imported(tmp_path, tmp_path / "other.hdf5")
