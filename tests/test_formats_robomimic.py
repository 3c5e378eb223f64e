"""robomimic's HDF5: read back as robomimic reads it, and byte for byte by the importer; files of others come in."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_steps import INFO, recordings
from synthetic import episode

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.store.formats.base import ConversionOptions
from robopref.store.formats.robomimic_export import export_robomimic
from robopref.store.formats.robomimic_import import import_robomimic
from robopref.trajectory import Actor, Outcome

OPTIONS = ConversionOptions()
CORRECTED = [Actor.POLICY, Actor.POLICY, Actor.HUMAN, Actor.HOLD, Actor.HUMAN, Actor.POLICY]


def store_of(path, episodes):
    store = EpisodeStore.create_or_open(path)
    for one in episodes:
        store.add(replace(one, info=replace(one.info, started_at="2026-01-01T00:00:00+00:00")))
    return store


def numbered(count, first=0, **keywords):
    kinds = [CORRECTED, [Actor.EXPERT] * 4]
    return [episode(kinds[n % 2], seed=n, episode_id=f"e{n:02d}", **keywords) for n in range(first, first + count)]


def same_files(first, second):
    assert first.episode_ids() == second.episode_ids()
    for name in first.episode_ids():
        file = f"episodes/{name}.safetensors"
        assert (first.path / file).read_bytes() == (second.path / file).read_bytes()


@settings(max_examples=20)
@given(steps=recordings(), with_final=st.booleans())
def test_a_round_trip_gives_the_same_files(tmp_path_factory, steps, with_final):
    root = tmp_path_factory.mktemp("trip")
    store = EpisodeStore.create_or_open(root / "store")
    with store.begin(INFO) as writer:
        for step in steps:
            writer.append(step)
        writer.finish(Outcome.FAILURE, steps[0].observation if with_final else None)
    told = export_robomimic(store, root / "out.hdf5", OPTIONS)
    assert (told.episodes, told.steps, told.lost, bool(told.invented)) == (1, len(steps), (), not with_final)
    back = EpisodeStore.create_or_open(root / "back")
    told = import_robomimic(root / "out.hdf5", back, OPTIONS)
    assert (told.episodes, told.steps, told.lost, told.invented) == (1, len(steps), (), ())
    same_files(store, back)


def test_robomimics_own_loader_would_find_what_it_needs(tmp_path):
    final = {
        "state": np.ones(5, np.float32),
        "proprio": np.ones(3, np.float32),
        "image": np.ones((16, 16, 3), np.uint8),
    }
    episodes = [replace(one, final_observation=final) for one in numbered(12, image=True)]
    store = store_of(tmp_path / "store", episodes)
    export_robomimic(store, tmp_path / "out.hdf5", OPTIONS)
    with h5py.File(tmp_path / "out.hdf5", "r") as file:
        data = file["data"]
        demos = sorted(data.keys(), key=lambda name: int(name[5:]))
        assert demos == [f"demo_{n}" for n in range(12)]
        assert data.attrs["total"] == sum(data[demo].attrs["num_samples"] for demo in demos) == 6 * 6 + 6 * 4
        assert json.loads(data.attrs["env_args"]) == {"env_name": "reach", "type": 2, "env_kwargs": {}}
        for demo, one in zip(demos, episodes, strict=True):
            group, length = data[demo], data[demo].attrs["num_samples"]
            np.testing.assert_array_equal(group["actions"][()], one.action)
            assert group["rewards"].shape == group["dones"].shape == (length,)
            assert set(group["obs"]) == set(group["next_obs"]) == {"image", "proprio", "state"}
            for key, seen in one.observation.items():
                np.testing.assert_array_equal(group["obs"][key][()], seen)
                np.testing.assert_array_equal(group["next_obs"][key][:-1], seen[1:])
                np.testing.assert_array_equal(group["next_obs"][key][-1], final[key])
        masks = {name: [entry.decode() for entry in values[()]] for name, values in file["mask"].items()}
    assert masks["valid"] == ["demo_9"]
    assert masks["train"] == [demo for demo in demos if demo != "demo_9"]
    assert masks["corrected"] == demos[::2]
    assert masks["demonstrations"] == demos[1::2]
    assert masks["success"] == demos


def test_appending_takes_what_is_new_and_fits(tmp_path):
    store = store_of(tmp_path / "store", numbered(2))
    out = tmp_path / "out.hdf5"
    export_robomimic(store, out, OPTIONS)
    with pytest.raises(RoboprefError, match="exists already"):
        export_robomimic(store, out, OPTIONS)
    store_of(tmp_path / "store", numbered(2, first=2))
    told = export_robomimic(store, out, ConversionOptions(append=True))
    assert (told.episodes, len(told.skipped)) == (2, 2)
    back = EpisodeStore.create_or_open(tmp_path / "back")
    import_robomimic(out, back, OPTIONS)
    same_files(store, back)
    before = out.read_bytes()
    other = store_of(tmp_path / "other", [episode([Actor.POLICY], state_size=7, episode_id="o")])
    with pytest.raises(RoboprefError, match="observation/state"):
        export_robomimic(other, out, ConversionOptions(append=True))
    assert out.read_bytes() == before
    assert import_robomimic(out, back, ConversionOptions(append=True)).episodes == 0
    with pytest.raises(RoboprefError, match="already has it"):
        import_robomimic(out, back, OPTIONS)


@pytest.mark.parametrize("removed", ["demo_0", "demo_2"])
def test_appending_where_a_demonstration_was_removed(tmp_path, removed):
    out = tmp_path / "out.hdf5"
    export_robomimic(store_of(tmp_path / "store", numbered(3)), out, OPTIONS)
    with h5py.File(out, "a") as file:
        del file["data"][removed]
        left = {name: json.loads(demo["robopref"].attrs["info"])["episode_id"] for name, demo in file["data"].items()}
    store = store_of(tmp_path / "store", numbered(1, first=3))
    told = export_robomimic(store, out, ConversionOptions(append=True))
    assert (told.episodes, len(told.skipped)) == (2, 2)
    with h5py.File(out, "r") as file:
        ids = {name: json.loads(demo["robopref"].attrs["info"])["episode_id"] for name, demo in file["data"].items()}
    assert left.items() < ids.items()
    assert sorted(ids) == sorted([*left, *(["demo_3", "demo_4"] if removed == "demo_0" else ["demo_2", "demo_3"])])
    back = EpisodeStore.create_or_open(tmp_path / "back")
    import_robomimic(out, back, OPTIONS)
    same_files(store, back)


def test_an_export_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    store = store_of(tmp_path / "store", numbered(3))
    out = tmp_path / "out.hdf5"

    def fail(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_robomimic(store, out, ConversionOptions(progress=fail))
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    export_robomimic(store_of(tmp_path / "one", numbered(1)), out, OPTIONS)
    before = out.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        export_robomimic(store, out, ConversionOptions(append=True, progress=fail))
    assert out.read_bytes() == before


def test_a_killed_append_leaves_what_was_there(tmp_path):
    out = tmp_path / "out.hdf5"
    export_robomimic(store_of(tmp_path / "one", numbered(1)), out, OPTIONS)
    before = out.read_bytes()
    store = store_of(tmp_path / "store", numbered(3))
    script = (
        "import sys, time; from pathlib import Path; from robopref.store import EpisodeStore\n"
        "from robopref.store.formats.base import ConversionOptions\n"
        "from robopref.store.formats.robomimic_export import export_robomimic\n"
        "def stop(done, total):\n"
        "    if done == 2: print('now', flush=True); time.sleep(60)\n"
        f"export_robomimic(EpisodeStore.open({str(store.path)!r}), Path({str(out)!r}), "
        "ConversionOptions(append=True, progress=stop))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=dict(os.environ))
    assert process.stdout.readline() == b"now\n"
    process.kill()
    process.wait()
    assert out.read_bytes() == before
    assert export_robomimic(store, out, ConversionOptions(append=True)).episodes == 2


def foreign(path, lengths=(3, 2), **changes):
    """As robosuite's data sets are: demos out of order, states, masks."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 10}})
        data.attrs["total"] = sum(lengths)
        for n, length in reversed(list(enumerate(lengths))):
            demo = data.create_group(f"demo_{n + 9}")
            demo.attrs["num_samples"] = length
            demo["actions"] = np.linspace(-1, 1, length * 7).reshape(length, 7)
            demo["rewards"] = np.eye(length)[-1] * (n == 0)
            demo["dones"] = np.eye(length, dtype=int)[-1]
            demo["states"] = np.zeros((length, 4))
            for group, shift in (("obs", 0), ("next_obs", 1)):
                demo[f"{group}/agentview_image"] = np.full((length, 4, 4, 3), shift, np.uint8)
                demo[f"{group}/robot0_eef_pos"] = np.arange(length * 3.0).reshape(length, 3) + 3 * shift
            for name, value in changes.items():
                target = name.replace("__", "/")
                if target in demo:
                    del demo[target]
                if value is not None:
                    demo[target] = value
        file["mask/train"] = np.array(["demo_9"], "S")
    return path


def test_the_file_of_another_tool_comes_in_as_demonstrations(tmp_path):
    store = EpisodeStore.create_or_open(tmp_path / "store")
    told = import_robomimic(foreign(tmp_path / "f.hdf5"), store, OPTIONS)
    assert (told.episodes, told.steps) == (2, 5)
    assert any(sentence.startswith("states:") for sentence in told.lost)
    assert any("10 steps per second, as env_args say" in sentence for sentence in told.invented)
    first, second = store  # demo_9 before demo_10
    assert (first.info.task, first.info.outcome, second.info.outcome) == ("Lift", Outcome.SUCCESS, Outcome.FAILURE)
    assert first.info.extra["robomimic"]["masks"] == ["train"]
    np.testing.assert_array_equal(first.action[0], np.linspace(-1, 1, 21)[:7])
    np.testing.assert_array_equal(first.observation["robot0_eef_pos"], np.arange(9.0).reshape(3, 3))
    np.testing.assert_array_equal(first.final_observation["robot0_eef_pos"], [9, 10, 11])
    np.testing.assert_array_equal(first.t_monotonic_ns, [0, 100_000_000, 200_000_000])
    assert first.actor.tolist() == [Actor.EXPERT] * 3
    assert first.success.tolist() == first.terminated.tolist() == [False, False, True]
    assert np.isnan(first.policy_action).all()
    again = import_robomimic(tmp_path / "f.hdf5", store, ConversionOptions(append=True))
    assert (again.episodes, len(again.skipped)) == (0, 2)
    fast = EpisodeStore.create_or_open(tmp_path / "fast")
    import_robomimic(tmp_path / "f.hdf5", fast, ConversionOptions(fps=50, task="lift", instruction="lift it"))
    info = fast.info(fast.episode_ids()[0])
    assert (info.task, info.instruction, info.extra["hz"]) == ("lift", "lift it", 50)


def test_who_acted_and_how_it_ended_may_be_said(tmp_path):
    store = EpisodeStore.create_or_open(tmp_path / "store")
    dense = foreign(tmp_path / "f.hdf5", lengths=(3,), rewards=np.array([0.2, 0.5, 0.9]))
    import_robomimic(dense, store, ConversionOptions(actor=Actor.HUMAN, outcome=Outcome.SUCCESS))
    (one,) = store
    assert (one.info.outcome, one.actor.tolist()) == (Outcome.SUCCESS, [Actor.HUMAN] * 3)
    np.testing.assert_array_equal(one.human_action, one.action)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"obs": None}, "demo_9: it lacks 'obs'"),
        ({"actions": None}, "demo_9: it lacks 'actions'"),
        ({"obs": np.zeros(3)}, "demo_9: it lacks 'obs'"),
        ({"next_obs__robot0_eef_pos": np.zeros((1, 3))}, "demo_9: next_obs/robot0_eef_pos has 1 steps, actions has 3"),
        ({"rewards": np.zeros(9)}, "demo_9: rewards has 9 steps, actions has 3"),
        ({"obs__robot0_eef_pos": np.zeros((2, 3))}, "demo_9: obs/robot0_eef_pos has 2 steps, actions has 3"),
        ({"actions": np.full((3, 7), np.nan)}, "demo_9: .*action"),
        ({"obs__robot0_eef_pos": np.full((3, 3), np.nan)}, "demo_9: .*robot0_eef_pos.* NaN"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, changes, said):
    store = EpisodeStore.create_or_open(tmp_path / "store")
    with pytest.raises(RoboprefError, match=said):
        import_robomimic(foreign(tmp_path / "f.hdf5", **changes), store, OPTIONS)
    assert len(store) == 0


def test_no_hdf5_and_half_a_file_are_refused(tmp_path):
    store = EpisodeStore.create_or_open(tmp_path / "store")
    whole = foreign(tmp_path / "f.hdf5").read_bytes()
    for contents in (b"no hdf5", whole[: len(whole) // 2]):
        (tmp_path / "g.hdf5").write_bytes(contents)
        with pytest.raises(RoboprefError, match=r"g\.hdf5 cannot be read"):
            import_robomimic(tmp_path / "g.hdf5", store, OPTIONS)
    with h5py.File(foreign(tmp_path / "counted.hdf5"), "a") as file:
        file["data/demo_9"].attrs["num_samples"] = 99
    with pytest.raises(RoboprefError, match="demo_9: num_samples is 99, actions has 3 steps"):
        import_robomimic(tmp_path / "counted.hdf5", store, OPTIONS)
    with h5py.File(tmp_path / "flat.hdf5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(RoboprefError, match="no demonstrations"):
        import_robomimic(tmp_path / "flat.hdf5", store, OPTIONS)
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file.create_group("other")
    with pytest.raises(RoboprefError, match="no demonstrations"):
        import_robomimic(tmp_path / "empty.hdf5", store, OPTIONS)
