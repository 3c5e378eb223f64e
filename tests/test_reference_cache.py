"""The reference's log-probabilities on disk: the same training, refused when stale, never half a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import Run
from test_policies import tiny_policy

from robopref.errors import RoboprefError
from robopref.training.reference_cache import ReferenceCache

PIXELS = ("image", "proprio")


def run(objective: str = "apo", cache: Path | None = None, **keywords: Any) -> Run:
    keywords = {"augmentation_variants": 2, "inputs": PIXELS, "steps": 5} | keywords
    return Run(objective, cache=cache, **keywords)


def count_passes(run: Run) -> list[int]:
    """How many samples each reference pass of the run scores from now on."""
    sizes: list[int] = []
    original = run.trainer.reference._computed

    def computed(part: Any) -> Any:
        sizes.append(len(part))
        return original(part)

    run.trainer.reference._computed = computed  # type: ignore[method-assign]
    return sizes


@pytest.mark.parametrize("objective", ["apo", "kto", "dpo", "tpo", "paired-takeover"])
def test_training_is_the_same_with_the_cache_empty_and_full(tmp_path: Path, objective: str) -> None:
    plain, filling = run(objective), run(objective, tmp_path / "cache")
    plain.trainer.run()
    filling.trainer.run()
    full = run(objective, tmp_path / "cache")
    sizes = count_passes(full)
    full.trainer.run()
    assert sizes == []  # the same steps again, each of whose rows is there
    for other in (filling, full):
        assert other.curve == {
            step: pytest.approx(metrics, rel=1e-5, abs=1e-6) for step, metrics in plain.curve.items()
        }
        for name, tensor in plain.weights().items():
            if not name.endswith(("stages.0.0.bias", "stages.1.0.bias")):  # no gradient but rounding
                torch.testing.assert_close(other.weights()[name], tensor, rtol=0, atol=1e-5)


def test_filled_beforehand_there_is_no_second_model(tmp_path: Path) -> None:
    plain, cached = run(), run(cache=tmp_path / "cache", micro_batch_size=5)
    plain.trainer.run()
    told: list[tuple[int, int]] = []
    cached.trainer.progress = lambda done, total: told.append((done, total))
    assert cached.trainer.precompute_reference()
    assert cached.cache is not None
    drawable = cached.trainer.sampler.drawable()
    assert len(cached.cache.missing(drawable)) == 0
    assert told[-1] == (2 * len(drawable), 2 * len(drawable))
    assert cached.policy.__dict__["_reference"] is None
    assert cached.trainer.run()
    assert cached.curve[5]["loss"] == pytest.approx(plain.curve[5]["loss"], rel=1e-5)
    again = run(cache=tmp_path / "cache")
    assert again.policy.__dict__["_reference"] is None  # it was never copied
    assert again.trainer.run()


def test_filling_that_is_stopped_is_gone_on_with(tmp_path: Path) -> None:
    stopped = run(cache=tmp_path / "cache", micro_batch_size=10, stop_after=0)
    assert not stopped.trainer.precompute_reference()
    rest = run(cache=tmp_path / "cache", micro_batch_size=10)
    sizes = count_passes(rest)
    assert rest.trainer.precompute_reference()
    assert sum(sizes) == 2 * len(rest.trainer.sampler.drawable()) - 10


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("data", {"key": {"data": "those"}}),
        ("policy", {"key": {"policy": "that"}}),
        ("seed", {"seed": 1}),
        ("augmentation_variants", {"augmentation_variants": 3}),
        ("image_shift", {"image_shift": 1}),
        ("second_actions", {"window": 4}),
        ("contrast", {"objective": "dpo"}),
        ("tokens", {"policy": tiny_policy(PIXELS, bins=64)}),
    ],
)
def test_a_cache_of_something_else_is_refused_by_name(tmp_path: Path, name: str, changed: dict[str, Any]) -> None:
    run(cache=tmp_path / "cache")
    with pytest.raises(RoboprefError, match=rf"another ({name}|.*and another {name}).*choose another directory"):
        run(cache=tmp_path / "cache", **changed)


def test_what_cannot_be_cached(tmp_path: Path) -> None:
    with pytest.raises(RoboprefError, match="number of augmentation_variants"):
        run(cache=tmp_path / "a", augmentation_variants=None)
    with pytest.raises(RoboprefError, match="bc has no reference"):
        run("bc", tmp_path / "b")
    with pytest.raises(RoboprefError, match="next row of the batch"):
        run(cache=tmp_path / "c", objective_settings={"variant": "reference"})
    with pytest.raises(RoboprefError, match="no reference cache to fill"):
        run().trainer.precompute_reference()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "letter.txt").write_text("not ours")
    with pytest.raises(RoboprefError, match="holds no reference cache"):
        run(cache=tmp_path / "d")
    assert not list(tmp_path.glob(".*"))


# --- the files


def small(directory: Path) -> ReferenceCache:
    return ReferenceCache(directory, {"data": "x"}, (7, 2, 3))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=14, unique=True), st.data())
def test_rows_come_back_and_damaged_ones_do_not(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int]], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("cache") / "c"
    indices, variants = np.array(places).T
    rows = np.random.default_rng(0).normal(size=(len(places), 3)).astype(np.float32)
    cache = small(directory)
    cache.write(indices, variants, rows)
    cache.flush()
    found, there = small(directory).read(indices, variants)
    assert there.all()
    assert np.array_equal(found, rows)
    assert len(small(directory).missing(np.arange(7))) == 14 - len(places)
    # Killed in the middle of a row, or the row lost and its checksum kept.
    torn = data.draw(st.integers(0, len(places) - 1))
    raw = np.memmap(directory / "rows.f32", dtype=np.float32, mode="r+", shape=(7, 2, 3))
    raw[indices[torn], variants[torn], data.draw(st.integers(0, 2)) :] = 0
    raw.flush()
    _, there = small(directory).read(indices, variants)
    assert there.tolist() == [number != torn for number in range(len(places))]


def test_a_killed_run_leaves_a_usable_cache(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    killed = run(cache=tmp_path / "cache")
    assert killed.cache is not None
    original, writes = killed.cache.write, iter(range(9))

    def write(indices: Any, variants: Any, rows: Any) -> None:
        if next(writes) == 2:  # half the values are there, no checksum
            killed.cache._rows[indices[:4], variants[:4], :5] = rows[:4, :5]  # type: ignore[union-attr]
            raise Killed
        original(indices, variants, rows)

    killed.cache.write = write  # type: ignore[method-assign]
    with pytest.raises(Killed):
        killed.trainer.run()
    again, plain = run(cache=tmp_path / "cache"), run()
    again.trainer.run()
    plain.trainer.run()
    assert again.curve[5] == pytest.approx(plain.curve[5], rel=1e-5, abs=1e-6)


def test_an_unreadable_header_is_refused(tmp_path: Path) -> None:
    small(tmp_path / "c")
    assert json.loads((tmp_path / "c" / "reference.json").read_text())["shape"] == [7, 2, 3]
    (tmp_path / "c" / "reference.json").write_text("{")
    with pytest.raises(RoboprefError, match="no readable reference cache"):
        small(tmp_path / "c")
