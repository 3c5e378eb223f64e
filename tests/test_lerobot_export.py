"""A store as a LeRobotDataset v3.0: read back by the format's own rules, and byte for byte by the importer."""

import io
import tracemalloc
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_reader import STATS, Reader, loads
from PIL import Image
from recorded_steps import INFO, recordings
from synthetic import demonstrations, episode, interactions

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.store.formats import lerobot_export as exporting
from robopref.store.formats import lerobot_source as importing
from robopref.store.formats.base import ConversionOptions
from robopref.store.formats.lerobot_export import export_lerobot
from robopref.store.formats.lerobot_import import import_lerobot
from robopref.trajectory import Actor, Outcome, is_null_action

GOLDEN = Path(__file__).parent / "data/lerobot/golden"


def store_of(path, episodes):
    store = EpisodeStore.create_or_open(path)
    for number, one in enumerate(episodes):
        named = replace(one.info, episode_id=f"e{number}", started_at="2026-01-01T00:00:00+00:00")
        store.add(replace(one, info=named))
    return store


def pictured(count=2, **keywords):
    """Short episodes with takeovers, images and two instructions."""
    actors = [Actor.POLICY] * 3 + [Actor.HUMAN] * 2 + [Actor.HOLD, Actor.POLICY]
    return [episode(actors, seed=n, image=True, instruction=f"task {n % 2}", **keywords) for n in range(count)]


def large(image_size, steps=5, channels=3):
    """One episode with pictures of that size that a video can show well."""
    one = episode([Actor.POLICY] * steps)
    grid = np.linspace(0, 120, image_size).astype(np.uint8)
    pictures = np.repeat(np.repeat(grid[None, :, None, None], image_size, 2), steps, 0) + np.arange(steps)[
        :, None, None, None
    ].astype(np.uint8)
    observation = {"image": np.repeat(pictures, channels, 3), "proprio": one.observation["proprio"]}
    return replace(one, observation=observation, final_observation={})


def exported(tmp_path, episodes, name="out", **options):
    store = store_of(tmp_path / "store", episodes)
    path = tmp_path / name
    return path, export_lerobot(store, path, ConversionOptions(**options))


def files(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def assert_same_episodes(first, second):
    assert first.episode_ids() == second.episode_ids()
    for episode_id in first.episode_ids():
        name = f"episodes/{episode_id}.safetensors"
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    assert second.verify() == []


@settings(max_examples=25)
@given(steps=recordings(), with_final=st.booleans())
def test_a_round_trip_gives_the_same_files(tmp_path_factory, steps, with_final):
    root = tmp_path_factory.mktemp("trip")
    store = EpisodeStore.create_or_open(root / "store")
    with store.begin(INFO) as writer:
        for step in steps:
            writer.append(step)
        writer.finish(Outcome.FAILURE, steps[0].observation if with_final else None)
    told = export_lerobot(store, root / "out", ConversionOptions(fps=20))
    assert (told.episodes, told.steps, told.lost, told.skipped) == (1, len(steps), (), ())
    assert len(Reader(root / "out")) == len(steps)
    back = EpisodeStore.create_or_open(root / "back")
    told = import_lerobot(root / "out", back, ConversionOptions())
    assert (told.episodes, told.steps, told.lost, told.invented) == (1, len(steps), (), ())
    assert_same_episodes(store, back)


@pytest.mark.parametrize("discrete", [False, True])
def test_a_round_trip_of_takeovers_and_images(tmp_path, discrete):
    path, _ = exported(tmp_path, pictured(3, discrete=discrete), fps=20)
    back = EpisodeStore.create_or_open(tmp_path / "back")
    import_lerobot(path, back, ConversionOptions())
    assert_same_episodes(EpisodeStore.open(tmp_path / "store"), back)


def test_every_value_is_where_lerobot_looks(tmp_path):
    episodes = pictured(3)
    path, _ = exported(tmp_path, episodes, fps=20)
    reader = Reader(path)
    assert reader.policy_features() == {
        "observation.images.image": "visual",
        "observation.state": "state",
        "observation.environment_state": "environment",
        "action": "action",
    }
    assert reader.tasks.index.tolist() == ["task 0", "task 1"]
    index = 0
    for number, one in enumerate(episodes):
        for step in range(len(one)):
            expected = {
                "observation.images.image": one.observation["image"][step],
                "observation.state": one.observation["proprio"][step],
                "observation.environment_state": one.observation["state"][step],
                "action": one.action[step],
                "policy_action": np.nan_to_num(one.policy_action[step]),
                "human_action": np.nan_to_num(one.human_action[step]),
                "has_policy_action": [not is_null_action(one.policy_action)[step]],
                "has_human_action": [not is_null_action(one.human_action)[step]],
                "intervention": [one.actor[step] == Actor.HUMAN],
                "actor": [one.actor[step]],
                "segment_id": [one.segment_id[step]],
                "next.reward": [one.reward[step]],
                "next.success": [one.success[step]],
                "next.done": [one.terminated[step] | one.truncated[step]],
                "t_monotonic_ns": [one.t_monotonic_ns[step]],
                "timestamp": [np.float32(step / 20)],
                "episode_index": [number],
                "task_index": [number % 2],
            }
            for name, value in expected.items():
                np.testing.assert_array_equal(reader.value(index, name), value, err_msg=name)
            index += 1
    assert index == len(reader)
    actions, outside = reader.window(len(episodes[0]), "action", [-0.05, 0.0, 0.05])
    np.testing.assert_array_equal(actions, episodes[1].action[[0, 0, 1]])
    assert outside == [True, False, False]


def test_the_episodes_can_be_chosen_by_outcome(tmp_path):
    one, other = pictured(2)
    path, _ = exported(tmp_path, [one, replace(other, info=replace(other.info, outcome=Outcome.FAILURE))], fps=20)
    table = Reader(path).episodes
    assert table["robopref/outcome"].tolist() == ["success", "failure"]
    assert table["robopref/episode_id"].tolist() == ["e0", "e1"]
    assert loads(table["robopref/info"][0])["instruction"] == "task 0"


def test_statistics_are_those_of_all_values(tmp_path):
    path, _ = exported(tmp_path, interactions(4, image=True), fps=20)
    reader = Reader(path)
    quantiles = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
    assert set(reader.stats) == set(reader.features)
    for name, feature in reader.features.items():
        values = np.stack([reader.value(index, name) for index in range(len(reader))]).astype(np.float64)
        parts = np.split(values, reader.episodes["dataset_to_index"].tolist()[:-1])
        axis, shape = (0, tuple(feature["shape"]))
        if feature["dtype"] == "image":
            values, parts, axis, shape = values / 255, [part / 255 for part in parts], (0, 1, 2), (3, 1, 1)
        stats = reader.stats[name]
        assert list(stats) == STATS
        assert stats["count"] == [len(reader)]
        for stat, expected in {
            "min": values.min(axis),
            "max": values.max(axis),
            "mean": values.mean(axis),
            "std": values.std(axis),
        }.items():
            np.testing.assert_allclose(stats[stat], expected.reshape(shape), rtol=1e-9, atol=1e-12, err_msg=name)
        for stat, level in quantiles.items():
            of_parts = [np.quantile(part, level, axis=axis).reshape(shape) for part in parts]
            envelope = np.min(of_parts, 0) if level <= 0.5 else np.max(of_parts, 0)
            np.testing.assert_allclose(stats[stat], envelope, atol=1 / 255 if axis else 1e-9, err_msg=name)
            row = reader.episodes[f"stats/{name}/{stat}"][1]
            row = np.array([np.concatenate(list(outer)) for outer in row]) if axis else np.array(row)
            np.testing.assert_allclose(row.reshape(shape), of_parts[1], atol=1 / 255 if axis else 1e-9)


def test_statistics_of_a_large_column_are_of_steps_at_even_distances(tmp_path, monkeypatch):
    from robopref.store.formats import lerobot_statistics

    monkeypatch.setattr(lerobot_statistics, "MAX_BYTES", 10 * 5 * 8)
    path, _ = exported(tmp_path, demonstrations(1, 19), fps=20)
    stats = Reader(path).stats["observation.environment_state"]
    states = EpisodeStore.open(tmp_path / "store").read("e0").observation["state"][::2]
    assert stats["count"] == [10]
    np.testing.assert_allclose(stats["mean"], states.mean(0, np.float64))


def golden(tmp_path):
    """The schemas and ``info.json`` of a small data set, as text."""
    path, _ = exported(tmp_path, pictured(2), fps=20)
    schemas = {
        "data": pq.read_schema(path / "data/chunk-000/file-001.parquet"),
        "episodes": pq.read_schema(path / "meta/episodes/chunk-000/file-001.parquet"),
        "tasks": pq.read_schema(path / "meta/tasks.parquet"),
    }
    told = {f"{name}_schema.txt": described(schema) for name, schema in schemas.items()}
    return told | {"info.json": (path / "meta/info.json").read_text()}


def described(schema):
    lines = [f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in schema]
    metadata = {
        key.decode(): value.decode() for key, value in (schema.metadata or {}).items() if key != b"ARROW:schema"
    }
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in sorted(metadata.items()))]) + "\n"


@pytest.mark.parametrize("name", ["data_schema.txt", "episodes_schema.txt", "tasks_schema.txt", "info.json"])
def test_the_layout_is_the_stored_one(tmp_path, name):
    assert golden(tmp_path)[name] == (GOLDEN / name).read_text()


def test_the_bytes_are_the_same_each_time(tmp_path):
    path, _ = exported(tmp_path, pictured(2), fps=20)
    again = tmp_path / "again"
    export_lerobot(EpisodeStore.open(tmp_path / "store"), again, ConversionOptions(fps=20))
    assert files(path) == files(again)


def test_pictures_are_known_as_such_to_the_datasets_library(tmp_path):
    path, _ = exported(tmp_path, pictured(1), fps=20)
    metadata = pq.read_schema(path / "data/chunk-000/file-000.parquet").metadata[b"huggingface"]
    assert loads(metadata)["info"]["features"] == {"observation.images.image": {"_type": "Image"}}
    cell = pd.read_parquet(path / "data/chunk-000/file-000.parquet")["observation.images.image"][2]
    assert cell["path"] == "frame-000002.png"
    assert Image.open(io.BytesIO(cell["bytes"])).format == "PNG"


KEYS = [
    ({"image": (4, 6, 3)}, {"image": "observation.images.image"}),
    ({"images/wrist": (4, 6, 3), "image": (4, 6, 1)}, {"images/wrist": "observation.images.wrist"}),
    ({"a/b": (2,), "a.b": (3,)}, {"a.b": "observation.a.b", "a/b": "observation.a.b_2"}),
    ({"image": (4, 6)}, {"image": "observation.pixels"}),
    ({"image": (4, 8, 8)}, {"image": "observation.pixels"}),
    ({"state": (3,)}, {"state": "observation.state"}),
    ({"proprio": (3,)}, {"proprio": "observation.state"}),
    ({"state": (3,), "proprio": (2,)}, {"state": "observation.environment_state", "proprio": "observation.state"}),
    ({"state": (), "proprio": (2, 2)}, {"proprio": "observation.state"}),
]


@pytest.mark.parametrize(("shapes", "names"), KEYS)
def test_observations_get_names_that_are_found_back(tmp_path, shapes, names):
    one = episode([Actor.POLICY] * 3)
    rng = np.random.default_rng(0)
    observation = {key: rng.integers(0, 256, (3, *shape), dtype=np.uint8) for key, shape in shapes.items()}
    path, _ = exported(tmp_path, [replace(one, observation=observation, final_observation={})], fps=20)
    reader = Reader(path)
    for key, name in names.items():
        assert reader.features[name]["info"]["robopref.column"] == f"observation/{key}"
        # LeRobot refuses other statistics for whatever has "image" in its name.
        shape = np.shape(reader.stats[name]["mean"])
        assert shape == (shapes[key][-1], 1, 1) if "image" in name else len(shape) == 1
    back = EpisodeStore.create_or_open(tmp_path / "back")
    import_lerobot(path, back, ConversionOptions())
    assert_same_episodes(EpisodeStore.open(tmp_path / "store"), back)


def test_partly_missing_actions_are_told(tmp_path):
    one = episode([Actor.POLICY] * 3)
    human = one.human_action.copy()
    human[1] = [0.5, np.nan, 0.0, np.inf]
    path, told = exported(tmp_path, [replace(one, human_action=human)], fps=20)
    assert "human_action: what there is of 1 actions" in told.lost[0]
    back = EpisodeStore.create_or_open(tmp_path / "back")
    import_lerobot(path, back, ConversionOptions())
    assert np.isnan(next(iter(back)).human_action).all()


RATES = [
    ({"fps": 30.0}, {}, 50_000_000, 30, "as asked for"),
    ({}, {"hz": 25}, 50_000_000, 25, "control loop"),
    ({}, {"hz": 19.9}, 50_000_000, 20, "rounded from 19.9"),
    ({}, {}, 50_000_000, 20, "median distance of the steps, 50.00 ms"),
    ({}, {"hz": "fast"}, 49_000_000, 20, "median distance"),
]


@pytest.mark.parametrize(("options", "extra", "distance", "fps", "how"), RATES)
def test_the_rate_is_a_whole_number_that_is_accounted_for(tmp_path, options, extra, distance, fps, how):
    one = episode([Actor.POLICY] * 4)
    one = replace(one, t_monotonic_ns=np.arange(4) * distance, info=replace(one.info, extra=extra))
    path, told = exported(tmp_path, [one], **options)
    assert Reader(path).fps == fps
    assert how in told.invented[0]


def test_the_time_between_episodes_is_no_distance_of_steps(tmp_path):
    episodes = [
        replace(episode([Actor.POLICY] * 2), t_monotonic_ns=10**12 * n + np.array([0, 10**8])) for n in range(3)
    ]
    path, _ = exported(tmp_path, episodes)
    assert Reader(path).fps == 10


@pytest.mark.parametrize(
    ("options", "steps", "distance", "message"),
    [
        ({"fps": float("nan")}, 4, 50, "whole number"),
        ({"fps": 29.97}, 4, 50, "whole number"),
        ({"fps": 0.0}, 4, 50, "whole number"),
        ({}, 4, 0, "say how many"),
        ({}, 1, 50, "say how many"),
        ({}, 4, 10, "say how many"),
    ],
)
def test_a_rate_that_cannot_be_is_refused(tmp_path, options, steps, distance, message):
    one = episode([Actor.POLICY] * steps)
    with pytest.raises(RoboprefError, match=message):
        exported(tmp_path, [replace(one, t_monotonic_ns=np.arange(steps) * distance)], **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoder", ["libsvtav1", "libx264"])
def test_video_is_read_by_time_and_its_error_is_told(tmp_path, monkeypatch, encoder):
    monkeypatch.setattr(av, "codecs_available", {encoder})
    episodes = [large(64, steps=7), large(64, steps=4)]
    path, told = exported(tmp_path, episodes, fps=20, images="video")
    reader = Reader(path)
    name = "observation.images.image"
    info = reader.features[name]["info"]
    originals = np.concatenate([one.observation["image"] for one in episodes]).astype(int)
    decoded = np.stack([reader.value(index, name) for index in range(len(reader))])
    difference = np.abs(originals - decoded)
    assert difference.mean() < 3
    assert info["robopref.mean_abs_error"] == pytest.approx(difference.mean())
    assert info["robopref.max_abs_error"] == difference.max()
    assert f"{difference.mean():.2f} of 255 on average and {difference.max()} at most" in told.lost[0]
    np.testing.assert_allclose(np.ravel(reader.stats[name]["mean"]), originals.mean((0, 1, 2)) / 255)
    with av.open(str(path / f"videos/{name}/chunk-000/file-000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec.canonical_name, stream.pix_fmt, stream.frames) == (info["video.codec"], "yuv420p", 7)
        assert stream.average_rate == 20
        keys = [p.pts * stream.time_base * 20 for p in container.demux(stream) if p.pts is not None and p.is_keyframe]
    assert {0, 2, 4, 6} <= set(keys)
    assert reader.episodes[f"videos/{name}/to_timestamp"].tolist() == [7 / 20, 4 / 20]

    back = EpisodeStore.create_or_open(tmp_path / "back")
    import_lerobot(path, back, ConversionOptions())
    returned = list(back)
    np.testing.assert_array_equal(np.concatenate([one.observation["image"] for one in returned]), decoded)
    np.testing.assert_array_equal(returned[1].policy_action, episodes[1].policy_action)
    assert not returned[0].final_observation


def test_a_final_observation_is_lossless_beside_a_video(tmp_path):
    one = large(64)
    final = {"image": one.observation["image"][0] + 7, "proprio": one.observation["proprio"][0]}
    path, _ = exported(tmp_path, [replace(one, final_observation=final)], fps=20, images="video")
    back = EpisodeStore.create_or_open(tmp_path / "back")
    import_lerobot(path, back, ConversionOptions())
    returned = next(iter(back)).final_observation
    assert set(returned) == set(final)
    for key, value in final.items():
        np.testing.assert_array_equal(returned[key], value)


def test_what_no_video_can_hold_is_refused_or_stays_a_picture(tmp_path, monkeypatch):
    path, told = exported(tmp_path, [large(64, channels=1)], fps=20, images="video")
    assert Reader(path).features["observation.images.image"]["dtype"] == "image"
    assert told.lost == ()
    for size, available, message in [
        (65, {"libx264"}, "even number"),
        (64, set(), "no encoder"),
        (8, {"libx264"}, "8 x 8"),
    ]:
        monkeypatch.setattr(av, "codecs_available", available)
        store = store_of(tmp_path / f"store{size}{len(available)}", [large(size)])
        with pytest.raises(RoboprefError, match=message):
            export_lerobot(store, tmp_path / f"o{size}", ConversionOptions(fps=20, images="video"))
        assert not (tmp_path / f"o{size}").exists()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1, 2), (0,)])
def test_shapes_that_lerobot_cannot_hold_are_refused(tmp_path, shape):
    one = episode([Actor.POLICY] * 2)
    one = replace(one, observation={"deep": np.zeros((2, *shape), np.float32)}, final_observation={})
    with pytest.raises(RoboprefError, match="'observation/deep'"):
        exported(tmp_path, [one], fps=20)


def test_an_empty_store_is_refused(tmp_path):
    with pytest.raises(RoboprefError, match="no finished episodes"):
        exported(tmp_path, [], fps=20)


def test_progress_is_told(tmp_path):
    seen = []
    exported(tmp_path, pictured(2), fps=20, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_a_long_episode_needs_no_more_memory_than_a_short_one(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "ROW_GROUP_BYTES", 2**18)
    monkeypatch.setattr(importing, "MEMORY_BYTES", 2**18)
    steps, size = 400, 128  # 20 MB of pictures that PNG cannot make small
    one = episode([Actor.POLICY] * steps)
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    pictures = np.lib.format.open_memmap(tmp_path / "pictures.npy", "w+", np.uint8, (steps, size, size, 3))
    for step in range(steps):
        pictures[step] = noise[step % 4]
    store = store_of(tmp_path / "store", [replace(one, observation={"image": pictures}, final_observation={})])
    back = EpisodeStore.create_or_open(tmp_path / "back")
    tracemalloc.start()
    try:
        export_lerobot(store, tmp_path / "out", ConversionOptions(fps=20))
        import_lerobot(tmp_path / "out", back, ConversionOptions())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6
    assert pq.ParquetFile(tmp_path / "out/data/chunk-000/file-000.parquet").num_row_groups > 50
    assert len(Reader(tmp_path / "out")) == steps
    assert_same_episodes(store, back)


if __name__ == "__main__":  # the layout was changed on purpose: store it anew
    import tempfile

    for file, text in golden(Path(tempfile.mkdtemp())).items():
        GOLDEN.mkdir(parents=True, exist_ok=True)
        (GOLDEN / file).write_text(text)
