"""A reader of LeRobotDataset v3.0 written from its specification alone, as the tests' oracle.

It does in pandas, pyarrow and PyAV what LeRobot does when it loads a directory: everything under ``data/`` and
``meta/episodes/`` in the order of the paths, features by ``info.json``, videos by time.
"""

import io
import json

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

DEFAULTS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64"} | {
    "task_index": "int64"
}
STATS = ["min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"]


def loads(text):
    """JSON as the standard has it, without NaN."""

    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


class Reader:
    """Raises AssertionError for a directory that LeRobot would not load or would misread."""

    def __init__(self, root):
        self.root = root
        self.info = loads((root / "meta/info.json").read_text())
        assert self.info["codebase_version"] == "v3.0"
        assert isinstance(self.info["fps"], int)
        self.fps = self.info["fps"]
        assert self.fps > 0
        self.features = self.info["features"]
        for name, feature in self.features.items():
            assert "/" not in name
            assert {"dtype", "shape", "names"} <= set(feature)
        for name, dtype in DEFAULTS.items():
            assert (self.features[name]["dtype"], self.features[name]["shape"]) == (dtype, [1])
        self.tasks = pd.read_parquet(root / "meta/tasks.parquet")
        assert self.tasks.index.name == "task"
        assert self.tasks["task_index"].tolist() == list(range(len(self.tasks)))
        episodes = sorted((root / "meta/episodes").glob("*/*.parquet"))
        self.episodes = pd.concat([pd.read_parquet(path) for path in episodes], ignore_index=True)
        assert self.episodes["episode_index"].tolist() == list(range(len(self.episodes)))
        assert len(self.episodes) >= self.info["total_episodes"]
        files = sorted((root / "data").glob("*/*.parquet"))
        assert files
        self.data = pa.concat_tables([pq.read_table(path, partitioning=None) for path in files])
        self._check_types()
        assert len(self.data) >= len(self)
        assert self.data["index"].to_pylist() == list(range(len(self.data)))
        self._check_episodes()
        self.stats = loads((root / "meta/stats.json").read_text())

    def __len__(self):
        return self.info["total_frames"]

    def _check_types(self):
        stored = [name for name, feature in self.features.items() if feature["dtype"] != "video"]
        assert self.data.column_names == stored
        for name in stored:
            dtype, shape = self.features[name]["dtype"], self.features[name]["shape"]
            if dtype == "image":
                expected = pa.struct({"bytes": pa.binary(), "path": pa.string()})
            else:
                expected = pa.from_numpy_dtype(np.dtype(dtype))
                if len(shape) == 1 and shape != [1]:
                    expected = pa.list_(expected, shape[0])
                for _ in shape if len(shape) > 1 else []:
                    expected = pa.list_(expected)
            assert self.data.schema.field(name).type == expected, name
            assert self.data[name].null_count == 0

    def _check_episodes(self):
        total = 0
        for row in self.episodes[: self.info["total_episodes"]].to_dict("records"):
            assert row["dataset_from_index"] == total
            total += row["length"]
            assert row["dataset_to_index"] == total
            path = self.root / self.info["data_path"].format(
                chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
            )
            own = pq.read_table(path, columns=["episode_index", "frame_index"], partitioning=None).to_pandas()
            own = own[own["episode_index"] == row["episode_index"]]
            assert own["frame_index"].tolist() == list(range(row["length"]))
            assert list(row["tasks"]) == [
                self.tasks.index[int(self.data["task_index"][row["dataset_from_index"]].as_py())]
            ]
            for name in self.features:
                for stat in STATS:
                    assert f"stats/{name}/{stat}" in row
        assert total == self.info["total_frames"]

    def policy_features(self):
        """Which features LeRobot hands a policy, and as what."""
        kinds = {}
        for name, feature in self.features.items():
            if feature["dtype"] in ("image", "video"):
                assert len(feature["shape"]) == 3
                assert feature["names"][2] in ("channel", "channels")
                kinds[name] = "visual"
            elif name == "observation.environment_state":
                kinds[name] = "environment"
            elif name.startswith("observation"):
                kinds[name] = "state"
            elif name.startswith("action"):
                kinds[name] = "action"
        return kinds

    def value(self, index, name):
        """The stored value of a step; pictures are uint8 [H, W, C]."""
        row = {
            key: self.data[key][index].as_py()
            for key in (name, "episode_index", "timestamp")
            if key in self.data.column_names
        }
        feature = self.features[name]
        if feature["dtype"] == "video":
            return self._frame(name, row["episode_index"], np.float32(row["timestamp"]))
        if feature["dtype"] == "image":
            picture = np.array(Image.open(io.BytesIO(row[name]["bytes"])))
            return picture[:, :, None] if picture.ndim == 2 else picture
        return np.array(row[name], feature["dtype"]).reshape(feature["shape"])

    def _frame(self, name, episode, timestamp, tolerance=1e-4):
        row = self.episodes.iloc[episode]
        path = self.root / self.info["video_path"].format(
            video_key=name,
            chunk_index=row[f"videos/{name}/chunk_index"],
            file_index=row[f"videos/{name}/file_index"],
        )
        wanted = row[f"videos/{name}/from_timestamp"] + float(timestamp)
        assert wanted <= row[f"videos/{name}/to_timestamp"]
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            container.seek(round(wanted / stream.time_base) - 1, backward=True, any_frame=False, stream=stream)
            for decoded, frame in enumerate(container.decode(stream)):
                if abs(float(frame.pts * stream.time_base) - wanted) <= tolerance:
                    # Keyframes lie two apart, and the search starts a unit early.
                    assert decoded <= 3
                    return frame.to_ndarray(format="rgb24")
        raise AssertionError(f"{path} has no frame at {wanted}")

    def window(self, index, name, deltas):
        """The values at time differences that are multiples of 1 / fps, and which of them lie outside the episode."""
        for delta in deltas:
            assert abs(delta * self.fps - round(delta * self.fps)) / self.fps <= 1e-4
        row = self.episodes.iloc[self.data["episode_index"][index].as_py()]
        first, last = row["dataset_from_index"], row["dataset_to_index"] - 1
        wanted = [index + round(delta * self.fps) for delta in deltas]
        values = [self.value(int(np.clip(step, first, last)), name) for step in wanted]
        return np.stack(values), [not first <= step <= last for step in wanted]
