"""LeRobotDatasets of other programs in a store, and what is said of broken ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_reader import Reader
from test_lerobot_export import assert_same_episodes, exported, files, large, pictured

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.store.formats.base import ConversionOptions
from robopref.store.formats.lerobot_export import export_lerobot
from robopref.store.formats.lerobot_import import import_lerobot
from robopref.trajectory import Actor, Outcome, is_null_action

BY_LEROBOT = Path(__file__).parent / "data/lerobot"
"""Written by LeRobot 0.4.4 itself: three episodes of 3, 4 and 2 steps in one data file (and one video)."""

DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
INFO, TASKS, VIDEO = "meta/info.json", "meta/tasks.parquet", "videos/observation.images.front/chunk-000/file-000.mp4"


@pytest.fixture
def store(tmp_path):
    return EpisodeStore.create_or_open(tmp_path / "imported")


def imported(path, store, **options):
    told = import_lerobot(path, store, ConversionOptions(**options))
    assert store.verify() == []
    return list(store), told


def drawn(size, number, step):
    picture = np.zeros((size, size, 3), np.uint8)
    picture[:, :, 0], picture[:, :, 1] = number * 80, step * 60
    picture[: size // 2, :, 2] = 200
    return picture


def copied(tmp_path, name="by_lerobot_images"):
    path = tmp_path / "copy"
    shutil.copytree(BY_LEROBOT / name, path)
    return path


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_table(path, change):
    """Change a Parquet file's table, keeping the types of its columns."""
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)


def test_images_with_interventions_as_lerobot_writes_them(store):
    episodes, told = imported(BY_LEROBOT / "by_lerobot_images", store)
    assert (told.episodes, told.steps, told.skipped) == (3, 9, ())
    assert told.lost == (
        "note: values of type string are not read.",
        "complementary_info.discrete_penalty: a recording has no place for it.",
    )
    assert any("HUMAN where 'intervention' is true, POLICY elsewhere" in line for line in told.invented)
    for number, (one, length) in enumerate(zip(episodes, (3, 4, 2), strict=True)):
        assert one.info.instruction == one.info.task == ("pick", "place", "pick")[number]
        assert one.info.extra == {"hz": 10.0, "lerobot": {"episode_index": number, "robot_type": "so100"}}
        assert one.info.outcome is Outcome.ABORTED
        assert set(one.observation) == {"image", "proprio", "grid"}
        for step in range(length):
            np.testing.assert_array_equal(one.observation["image"][step], drawn(16, number, step))
            np.testing.assert_array_equal(one.observation["proprio"][step], np.array([number, step, 0.5], np.float32))
            np.testing.assert_array_equal(one.observation["grid"][step], np.full((2, 3), step, np.float32))
            np.testing.assert_array_equal(one.action[step], np.array([step, -number], np.float32))
        np.testing.assert_array_equal(one.reward, np.float32(np.arange(length) / 10))
        assert one.terminated.tolist() == [False] * (length - 1) + [True]
        np.testing.assert_array_equal(one.t_monotonic_ns, np.arange(length) * 100_000_000)
    second = episodes[1]
    assert second.actor.tolist() == [Actor.POLICY] * 2 + [Actor.HUMAN] * 2
    assert second.segment_id.tolist() == [-1, -1, 0, 0]
    assert is_null_action(second.policy_action).tolist() == [False, False, True, True]
    assert is_null_action(second.human_action).tolist() == [True, True, False, False]
    np.testing.assert_array_equal(second.human_action[2:], second.action[2:])


def test_one_video_for_several_episodes_as_lerobot_writes_it(store):
    episodes, told = imported(BY_LEROBOT / "by_lerobot_video", store, task="reach", instruction="pick it up")
    assert (told.episodes, told.steps, told.lost) == (3, 9, ())
    assert any("EXPERT throughout" in line and "demonstration" in line for line in told.invented)
    assert any("never, since there is no 'next.done'" in line for line in told.invented)
    for number, (one, length) in enumerate(zip(episodes, (3, 4, 2), strict=True)):
        assert (one.info.task, one.info.instruction) == ("reach", "pick it up")
        assert one.actor.tolist() == [Actor.EXPERT] * length
        assert is_null_action(one.policy_action).all()
        assert not one.reward.any()
        assert not one.terminated.any()
        for step in range(length):
            difference = np.abs(one.observation["image"][step].astype(int) - drawn(64, number, step))
            assert difference.mean() < 3
            np.testing.assert_array_equal(one.action[step], np.array([step, -number], np.float32))


def test_what_was_imported_is_exported_again_at_the_same_rate(tmp_path, store):
    imported(BY_LEROBOT / "by_lerobot_images", store)
    export_lerobot(store, tmp_path / "out", ConversionOptions())
    ours, theirs = Reader(tmp_path / "out"), Reader.__new__(Reader)
    theirs.features = json.loads((BY_LEROBOT / "by_lerobot_images" / INFO).read_text())["features"]
    theirs.data = pq.read_table(BY_LEROBOT / "by_lerobot_images" / DATA)
    assert ours.fps == 10
    same = [
        "observation.state",
        "observation.grid",
        "action",
        "intervention",
        "next.done",
        "episode_index",
        "timestamp",
    ]
    for index in range(9):
        for name in same:
            np.testing.assert_array_equal(ours.value(index, name), theirs.value(index, name), err_msg=name)
        picture = theirs.value(index, "observation.images.front")
        np.testing.assert_array_equal(ours.value(index, "observation.images.image"), picture)


def test_importing_again_adds_nothing(store):
    first, _ = imported(BY_LEROBOT / "by_lerobot_images", store)
    with pytest.raises(RoboprefError, match=r"episode 0: .* already has it, as lerobot-000000-"):
        imported(BY_LEROBOT / "by_lerobot_images", store)
    again, told = imported(BY_LEROBOT / "by_lerobot_images", store, append=True)
    assert (told.episodes, told.steps, len(told.skipped)) == (0, 0, 3)
    assert [one.info for one in again] == [one.info for one in first]


def test_an_own_export_imported_again_is_not_even_read(tmp_path, store):
    path, _ = exported(tmp_path, pictured(2), fps=20)
    imported(path, store)
    (path / DATA).write_bytes(b"")
    with pytest.raises(RoboprefError, match="already has it, as e0"):
        imported(path, store)
    _, told = imported(path, store, append=True)
    assert (told.episodes, len(told.skipped)) == (0, 2)


def test_an_interrupted_import_is_completed(tmp_path, store, monkeypatch):
    add, count = store.add, [0]

    def failing(one):
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return add(one)

    monkeypatch.setattr(store, "add", failing)
    with pytest.raises(KeyboardInterrupt):
        imported(BY_LEROBOT / "by_lerobot_images", store)
    assert len(store) == 1
    _, told = imported(BY_LEROBOT / "by_lerobot_images", store, append=True)
    assert (told.episodes, len(told.skipped), len(store)) == (2, 1, 3)


def made(tmp_path, features, columns, fps=10, rows=None, tasks=("do it",)):
    """A data set written with pandas, as someone else might: lists of any length, no statistics."""
    path = tmp_path / "made"
    for folder in (DATA, EPISODES):
        (path / folder).parent.mkdir(parents=True)
    length = len(next(iter(columns.values())))
    frame = pd.DataFrame({"timestamp": np.float32(np.arange(length) / fps), "frame_index": np.arange(length)} | columns)
    frame["episode_index"], frame["index"], frame["task_index"] = 0, np.arange(length), 0
    frame.to_parquet(path / DATA)
    row = {"episode_index": 0, "tasks": list(tasks), "length": length, "data/chunk_index": 0, "data/file_index": 0}
    row |= {"dataset_from_index": 0, "dataset_to_index": length}
    pd.DataFrame([row] if rows is None else rows).to_parquet(path / EPISODES)
    index = pd.Index(list(tasks), name="task")
    pd.DataFrame({"task_index": range(len(tasks))}, index=index).to_parquet(path / TASKS)
    defaults = {name: ("int64", [1]) for name in ("frame_index", "episode_index", "index", "task_index")}
    told = {name: {"dtype": d, "shape": s, "names": None} for name, (d, s) in (features | defaults).items()}
    info = {"codebase_version": "v3.0", "fps": fps, "total_episodes": 1, "total_frames": length, "features": told}
    (path / INFO).write_text(json.dumps(info))
    return path


VECTOR = {"timestamp": ("float32", [1]), "observation.state": ("float32", [2]), "action": ("float32", [2])}


def vectors(length):
    values = [np.array([n, -n], np.float32) for n in range(length)]
    return {"observation.state": values, "action": values}


def picture_file(array, ending=".png"):
    return {"bytes": cv2.imencode(ending, array[:, :, ::-1])[1].tobytes(), "path": None}


def test_several_cameras_channels_first_and_jpeg(tmp_path, store):
    features = VECTOR | {
        "observation.images.top": ("image", [3, 16, 24]),
        "observation.images.wrist": ("image", [16, 24, 3]),
    }
    features |= {"observation.images.mask": ("image", [1, 16, 24])}
    frames = [np.full((16, 24, 3), [10 * n, 50, 200], np.uint8) for n in range(3)]
    columns = vectors(3) | {"observation.images.top": [picture_file(frame) for frame in frames]}
    columns["observation.images.wrist"] = [picture_file(frame, ".jpg") for frame in frames]
    columns["observation.images.mask"] = [picture_file(frame[:, :, :1].repeat(3, 2)) for frame in frames]
    (one,), told = imported(made(tmp_path, features, columns), store)
    np.testing.assert_array_equal(one.observation["image"], frames)
    assert np.abs(one.observation["images/wrist"].astype(int) - frames).max() <= 3
    np.testing.assert_array_equal(one.observation["images/mask"], np.stack(frames)[:, :, :, :1])
    assert any("observation.images.top, the first camera, is called 'image'" in line for line in told.invented)


def test_outcomes_rewards_and_discrete_actions_of_others(tmp_path, store):
    features = VECTOR | {"action": ("int64", [1]), "next.success": ("bool", [1]), "next.reward": ("float64", [1])}
    features |= {"next.done": ("bool", [1]), "next.truncated": ("bool", [1]), "intervention": ("bool", [1])}
    columns = vectors(3) | {"action": [2, 0, 1], "next.success": [False, False, True], "next.reward": [0.0, 1.5, 2.0]}
    columns |= {"next.done": [False, False, True], "next.truncated": [False, False, True]}
    columns["intervention"] = [True, False, True]
    (one,), _ = imported(made(tmp_path, features, columns), store)
    assert one.info.outcome is Outcome.SUCCESS
    assert one.action.tolist() == [2, 0, 1]
    assert one.policy_action.tolist() == [-1, 0, -1]
    assert one.human_action.tolist() == [2, -1, 1]
    assert one.segment_id.tolist() == [0, -1, 1]
    assert one.reward.tolist() == [0.0, 1.5, 2.0]
    assert one.truncated.tolist() == [False, False, True]
    assert not one.terminated.any()


def test_failures_several_tasks_and_depth_maps_of_others(tmp_path, store):
    features = VECTOR | {"next.success": ("bool", [1]), "observation.images.depth": ("image", [4, 4, 1])}
    columns = vectors(2) | {
        "next.success": [False, False],
        "observation.images.depth": [{"bytes": b"", "path": ""}] * 2,
    }
    path = made(tmp_path, features, columns, tasks=("first", "then"))
    edit_json(
        path / INFO, lambda info: info["features"]["observation.images.depth"].update(info={"is_depth_map": True})
    )
    (one,), told = imported(path, store)
    assert one.info.outcome is Outcome.FAILURE
    assert one.info.instruction == "first"
    assert told.lost == (
        "observation.images.depth: depth maps are not read.",
        "tasks: all but the first of 1 episodes that have several.",
    )


def test_large_arrays_lie_in_temporary_files_that_are_gone_afterwards(tmp_path, store, monkeypatch):
    from robopref.store.formats import lerobot_source

    monkeypatch.setattr(lerobot_source, "MEMORY_BYTES", 0)
    path, _ = exported(tmp_path, pictured(2), fps=20)
    imported(path, store)
    assert_same_episodes(EpisodeStore.open(tmp_path / "store"), store)
    assert sorted(file.name for file in store.path.iterdir()) == ["dataset.json", "discarded", "episodes", "journal"]


def test_an_own_export_without_its_episode_columns_is_taken_for_anothers(tmp_path, store):
    path, _ = exported(tmp_path, pictured(2), fps=20)
    ours = [f"robopref/{name}" for name in ("episode_id", "outcome", "info")]
    for number in range(2):
        edit_table(path / f"meta/episodes/chunk-000/file-00{number}.parquet", lambda table: table.drop_columns(ours))
    episodes, told = imported(path, store)
    original = list(EpisodeStore.open(tmp_path / "store"))
    for one, other in zip(episodes, original, strict=True):
        for name in ("action", "policy_action", "human_action", "actor", "segment_id", "t_monotonic_ns", "success"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert not one.final_observation
    assert len(told.invented) == 1
    assert "episode_id, started_at: made at the import" in told.invented[0]


def test_final_observations_of_renumbered_episodes_are_not_mixed_up(tmp_path, store):
    path, _ = exported(tmp_path, pictured(2), fps=20)
    finals = [path / f"meta/robopref/final/chunk-000/file-00{number}.parquet" for number in range(2)]
    shutil.copy(finals[1], finals[0])
    episodes, _ = imported(path, store)
    assert [bool(one.final_observation) for one in episodes] == [False, True]


def test_features_added_to_an_own_export_are_told_as_lost(tmp_path, store):
    path, _ = exported(tmp_path, pictured(1), fps=20)
    edit_json(
        path / INFO, lambda info: info["features"].update(quality={"dtype": "float32", "shape": [1], "names": None})
    )
    edit_table(path / DATA, lambda table: table.append_column("quality", pa.array(np.zeros(7, np.float32))))
    _, told = imported(path, store)
    assert told.lost == ("quality: a recording has no place for it.",)
    assert_same_episodes(EpisodeStore.open(tmp_path / "store"), store)


def drop_rows(rows):
    return lambda table: table.take([n for n in range(len(table)) if n not in rows])


def set_cell(name, row, value):
    def change(table):
        values = table[name].to_pylist()
        values[row] = value
        return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))

    return change


def at(**changes):
    return lambda content: content.update(changes)


def shape(name, new):
    return lambda content: content["features"][name].update(shape=new)


BROKEN = [
    (INFO, None, "is no LeRobotDataset: it has no meta/info.json"),
    (INFO, "{", r"info\.json is damaged"),
    (INFO, "[]", r"info\.json is damaged"),
    (INFO, at(codebase_version="v2.1"), r"is a LeRobotDataset v2\.1; only v3\.0 is read.*convert_dataset_v21_to_v30"),
    (INFO, at(codebase_version="v4.0"), r"v4\.0; only v3\.0"),
    (INFO, at(fps=0), r"info\.json is damaged.*fps"),
    (INFO, at(features=3), r"info\.json is damaged"),
    (INFO, at(total_episodes=0), "holds no episodes"),
    (INFO, at(total_episodes=4), "4 episodes, but meta/episodes lacks number 3"),
    (INFO, lambda info: info["features"]["action"].pop("shape"), "'action' is damaged"),
    (INFO, lambda info: info["features"].pop("action"), "no feature 'action'"),
    (
        INFO,
        lambda info: [info["features"].pop(n) for n in list(info["features"]) if "observation" in n],
        "no observations",
    ),
    (INFO, shape("action", [3]), r"episode 0: the feature 'action' .*expected float32 \[3\]"),
    (INFO, shape("observation.grid", [3, 2]), "episode 0: the feature 'observation.grid'"),
    (INFO, shape("observation.images.front", [16, 18, 3]), r"step 0, 'observation\.images\.front': .*\[16, 16, 3\]"),
    (INFO, lambda info: info["features"]["action"].update(dtype="int64"), "'action' is .*expected int64"),
    (
        INFO,
        lambda info: info["features"].update({"observation.x": {"dtype": "float32", "shape": [2]}}),
        "lacks the feature 'observation.x'",
    ),
    (TASKS, None, r"tasks\.parquet is missing"),
    (TASKS, "PAR1", r"tasks\.parquet is damaged"),
    (TASKS, lambda table: table.drop_columns(["task_index"]), "expected task_index and task"),
    (EPISODES, None, "meta/episodes lacks number 0"),
    (EPISODES, "PAR1", r"episodes/chunk-000/file-000\.parquet is damaged"),
    (EPISODES, drop_rows([1]), "lacks number 1"),
    (EPISODES, lambda table: table.drop_columns(["data/file_index"]), "described incompletely.*data/file_index"),
    (EPISODES, set_cell("length", 1, 3), "episode 1: steps are missing, too many or out of order"),
    (EPISODES, set_cell("length", 1, 5), "has 4 steps of episode 1, which has 5"),
    (DATA, None, r"data/chunk-000/file-000\.parquet is missing"),
    (DATA, "PAR1", r"data/chunk-000/file-000\.parquet is damaged"),
    (DATA, drop_rows([3, 4, 5, 6]), "lacks episode 1"),
    (DATA, drop_rows([4]), r"episode 1: steps are missing.*about step 0"),
    (DATA, drop_rows([6]), "has 3 steps of episode 1, which has 4"),
    (DATA, lambda table: table.take([0, 3, 1, 2, 4, 5, 6, 7, 8]), "has 1 steps of episode 0"),
    (DATA, lambda table: table.drop_columns(["observation.state"]), "lacks the feature 'observation.state'"),
    (DATA, set_cell("action", 4, None), "episode 1: the feature 'action' has missing values"),
    (DATA, set_cell("action", 4, [float("nan"), 0.0]), "episode 1: .*executed action is missing or NaN"),
    (
        DATA,
        set_cell("observation.state", 4, [0.0, 0.0, float("inf")]),
        "episode 1: column 'observation/proprio' holds NaN",
    ),
    (DATA, set_cell("timestamp", 5, 0.0), "episode 1: .*runs backwards"),
    (DATA, set_cell("observation.images.front", 5, None), "episode 1, step 2, .*picture is missing"),
    (DATA, set_cell("observation.images.front", 5, {"bytes": b"no picture", "path": ""}), "step 2, .*damaged"),
]


@pytest.mark.parametrize(("name", "change", "message"), BROKEN)
def test_broken_data_sets_are_refused_saying_where(tmp_path, store, name, change, message):
    path = copied(tmp_path)
    if change is None:
        (path / name).unlink()
    elif isinstance(change, str):
        (path / name).write_text(change)
    elif name == INFO:
        edit_json(path / name, change)
    else:
        edit_table(path / name, change)
    with pytest.raises(RoboprefError, match=message) as raised:
        import_lerobot(path, store, ConversionOptions())
    assert str(path) in str(raised.value)
    assert store.verify() == []
    for one in store:  # what was whole before the damage is kept
        assert one.info.extra["lerobot"]["episode_index"] < 3


def test_a_path_that_is_no_directory_is_refused(tmp_path, store):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "absent", tmp_path / "file", tmp_path):
        with pytest.raises(RoboprefError, match="is no LeRobotDataset"):
            import_lerobot(path, store, ConversionOptions())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / VIDEO).unlink(), r"file-000\.mp4 is missing: .*front of episode 0"),
        (lambda path: (path / VIDEO).write_bytes(b"no video"), r"file-000\.mp4 is damaged"),
        (
            lambda path: (path / VIDEO).write_bytes((path / VIDEO).read_bytes()[:700]),
            r"file-000\.mp4 (is damaged|has no picture)",
        ),
        (
            lambda path: edit_table(
                path / EPISODES, set_cell("videos/observation.images.front/from_timestamp", 2, 0.8)
            ),
            r"no picture at 0\.9000 s, for step 1 of observation\.images\.front of episode 2",
        ),
        (
            lambda path: edit_json(path / INFO, shape("observation.images.front", [64, 32, 3])),
            r"\[64, 64, 3\], expected \[64, 32, 3\]",
        ),
        (
            lambda path: edit_table(
                path / EPISODES, lambda table: table.drop_columns(["videos/observation.images.front/file_index"])
            ),
            "described incompletely",
        ),
    ],
)
def test_broken_videos_are_refused_saying_where(tmp_path, store, change, message):
    path = copied(tmp_path, "by_lerobot_video")
    change(path)
    with pytest.raises(RoboprefError, match=message):
        import_lerobot(path, store, ConversionOptions())


@pytest.mark.parametrize("episode_id", ["../../x", ".hidden", "a/b", "", "a\0b"])
def test_an_id_that_would_leave_the_directory_is_refused(tmp_path, store, episode_id):
    path, _ = exported(tmp_path, pictured(1), fps=20)
    info = Reader(path).episodes["robopref/info"][0]
    changed = json.dumps(json.loads(info) | {"episode_id": episode_id})
    edit_table(path / EPISODES, set_cell("robopref/info", 0, changed))
    with pytest.raises(RoboprefError, match="is no episode id"):
        import_lerobot(path, store, ConversionOptions())
    edit_table(path / EPISODES, set_cell("robopref/info", 0, "{"))
    with pytest.raises(RoboprefError, match="episode 0: unreadable episode information"):
        import_lerobot(path, store, ConversionOptions())


def test_a_damaged_final_observation_is_told(tmp_path, store):
    path, _ = exported(tmp_path, pictured(1), fps=20)
    edit_table(
        path / "meta/robopref/final/chunk-000/file-000.parquet", lambda table: table.drop_columns(["observation.state"])
    )
    with pytest.raises(RoboprefError, match=r"episode 0: .*final.* lacks the feature 'observation\.state'"):
        import_lerobot(path, store, ConversionOptions())


def test_a_store_of_other_columns_is_left_alone(tmp_path, store):
    imported(BY_LEROBOT / "by_lerobot_images", store)
    before = files(store.path)
    path, _ = exported(tmp_path, pictured(1), fps=20)
    with pytest.raises(RoboprefError, match=r"out, episode 0: .*does not fit"):
        imported(path, store)
    assert files(store.path) == before


def test_a_video_is_found_where_its_episode_lies(tmp_path, store):
    """The same pictures, read from a video that begins with another episode's."""
    path, _ = exported(tmp_path, [large(64, steps=6), large(64, steps=4)], fps=20, images="video")
    name = "videos/observation.images.image"
    edit_table(path / "meta/episodes/chunk-000/file-001.parquet", set_cell(f"{name}/file_index", 0, 0))
    edit_table(path / "meta/episodes/chunk-000/file-001.parquet", set_cell(f"{name}/from_timestamp", 0, 0.1))
    episodes, _ = imported(path, store)
    np.testing.assert_array_equal(episodes[1].observation["image"], episodes[0].observation["image"][2:6])


def test_an_episode_without_a_final_observation_stays_so(tmp_path, store):
    one = pictured(1)[0]
    path, _ = exported(tmp_path, [replace(one, final_observation={})], fps=20)
    assert not (path / "meta/robopref").exists()
    imported(path, store)
    assert_same_episodes(EpisodeStore.open(tmp_path / "store"), store)


def test_an_episode_that_a_data_set_holds_twice_is_imported_once(tmp_path, store):
    path, _ = exported(tmp_path, pictured(2), fps=20)
    first = pq.read_table(path / EPISODES, columns=["robopref/info"])["robopref/info"][0].as_py()
    edit_table(path / "meta/episodes/chunk-000/file-001.parquet", set_cell("robopref/info", 0, first))
    _, told = imported(path, store, append=True)
    assert (told.episodes, told.skipped) == (1, (f"e0: {store.path} has it already.",))
