import json
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

from robopref.diagnosis import results as r
from robopref.diagnosis.record_files import load_record, save_record
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Estimate, Rate

ESTIMATE = Estimate(0.5, 0.25, 0.75, 3)
DISTORTION = r.Distortion(*[ESTIMATE] * 4, None, Rate.of(3, 9), np.ones((2, 7)))


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def frames(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def diagnosis() -> r.Diagnosis:
    subspace = r.Subspace(images(3, 48), images(2, 3, 3), images(2), 0.5)
    condition = r.Condition(
        "null", "null", "", 2, 9, 1, ESTIMATE, None, 0.01, None, ESTIMATE, None, None, images(2), None, None,
        images(2, 4, 6), images(5),
    )  # fmt: skip
    attack = replace(
        condition, name="cw", kind="attack", distortion=DISTORTION, example=frames(2, 4, 6),
        flips=ESTIMATE, below_null=ESTIMATE, score_steps=20,
    )  # fmt: skip
    return r.Diagnosis(
        r.Subject("m.zip", "abc", "CNN", "pong", {"frame_skip": 4}, ("NOOP", "FIRE"), "reward", (2, 4, 6), 2, 1),
        {"temperature": 1.0, "shifts": ["jpeg"]},
        {"torch": "2"},
        ("it is untrained",),
        r.Competence(ESTIMATE, ESTIMATE, images(3), ESTIMATE, 0.2, True),
        r.Directions(images(2, 2, 4, 6), images(3), 1.5, ESTIMATE, None, 9, 1, 0.0, "exact", False),
        r.Spatial(frames(2, 4, 6), frames(4, 6), images(2, 4, 6), images(4), images(2, 4), images(2, 4), images(2, 4)),
        r.Instability(
            (r.EpisodeSeries(1, 2.0, 3, True, images(3)),),
            ESTIMATE,
            ESTIMATE,
            None,
            None,
            ESTIMATE,
            (r.Peak(0, 1, 2.0, frames(2, 4, 6), images(2, 4, 6), images(2)),),
            images(1, 4),
        ),
        r.Decisions(images(4), 1.0, 0.05, ESTIMATE, ESTIMATE, np.array([np.inf, 1]), None),
        (condition, attack),
        subspace,
        None,
    )


def assert_equal(first, second):
    assert type(first) is type(second)
    if is_dataclass(first):
        for field in fields(first):
            assert_equal(getattr(first, field.name), getattr(second, field.name))
    elif isinstance(first, tuple):
        assert len(first) == len(second)
        for one, two in zip(first, second, strict=True):
            assert_equal(one, two)
    elif isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    else:
        assert first == second


def test_a_diagnosis_is_read_as_it_was_written(tmp_path):
    r.save_diagnosis(tmp_path, diagnosis())
    found = r.load_diagnosis(tmp_path)
    assert_equal(found, diagnosis())
    assert found.null is found.conditions[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arrays.npz", "summary.json"]


def test_a_comparison_is_read_as_it_was_written(tmp_path):
    overlap = r.Overlap(0.05, ESTIMATE, 0.02, ESTIMATE)
    comparison = r.Comparison(
        ("a", "b"), (diagnosis().subject,) * 2, ESTIMATE, (ESTIMATE, None), (ESTIMATE, ESTIMATE),
        {"mean": ESTIMATE, "oscillation": None}, overlap, (overlap, None), {"null": (ESTIMATE, None, None)},
        images(2, 4, 6),
    )  # fmt: skip
    r.save_comparison(tmp_path, comparison)
    assert_equal(r.load_comparison(tmp_path), comparison)


def test_a_field_with_a_default_may_be_missing(tmp_path):
    r.save_diagnosis(tmp_path, diagnosis())
    summary = tmp_path / "summary.json"
    told = json.loads(summary.read_text())
    del told["subspace"]["leakage"]
    summary.write_text(json.dumps(told))
    assert r.load_diagnosis(tmp_path).subspace.leakage is None
    del told["subspace"]["rest"]
    summary.write_text(json.dumps(told))
    with pytest.raises(RoboprefError, match="no Subspace of this version"):
        r.load_diagnosis(tmp_path)


def test_nothing_is_pickled(tmp_path):
    r.save_diagnosis(tmp_path, diagnosis())
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_an_unfinished_or_damaged_directory_is_refused(tmp_path):
    with pytest.raises(RoboprefError, match="has not come to its end"):
        r.load_diagnosis(tmp_path)
    r.save_diagnosis(tmp_path, diagnosis())
    summary = tmp_path / "summary.json"
    whole = summary.read_text()
    summary.write_text(whole[:-10])
    with pytest.raises(RoboprefError, match="damaged"):
        r.load_diagnosis(tmp_path)
    told = json.loads(whole)
    for change, message in [
        ({"versions": 3}, "damaged"),
        ({"statements": [1]}, "not a str"),
        ({"subject": {}}, "no Subject of this version"),
        ({"directions": told["directions"] | {"method": "guess"}}, "not one of exact, streaming"),
        ({"spatial": told["spatial"] | {"typical_state": {"array": "spatial.power"}}}, "instead of uint8"),
    ]:
        summary.write_text(json.dumps(told | change))
        with pytest.raises(RoboprefError, match=message):
            r.load_diagnosis(tmp_path)
    summary.write_text(whole)
    (tmp_path / "arrays.npz").write_bytes(b"x")
    with pytest.raises(RoboprefError, match="does not belong"):
        r.load_diagnosis(tmp_path)


@dataclass(frozen=True)
class Anything:
    value: Any


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_is_no_result_is_not_written(tmp_path, value):
    with pytest.raises(RoboprefError, match="value is"):
        save_record(tmp_path / "a.json", tmp_path / "a.npz", Anything(value))
    with pytest.raises(RoboprefError, match=r"no .*a\.json"):
        load_record(tmp_path / "a.json", tmp_path / "a.npz", Anything)
