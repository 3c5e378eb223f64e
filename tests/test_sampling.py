from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from robopref.errors import RoboprefError
from robopref.sampling import BUCKETS, DEFAULT_SHARES, BalancedSampler, apportion
from robopref.trajectory import Label

HUNDREDTHS = st.tuples(st.integers(0, 100), st.integers(0, 100)).filter(lambda ab: sum(ab) <= 100)
SIZES = st.tuples(*[st.integers(1, 30)] * 3)


def labels_of(sizes: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Labels in which EXPERT, HUMAN and UNDESIRABLE occur that often, among steps that nobody draws, shuffled."""
    labels = np.repeat([*BUCKETS, Label.POLICY, Label.EXCLUDED], [*sizes, 7, 5])
    return np.random.default_rng(seed).permutation(labels)


def counts_of(labels: np.ndarray, samples: np.ndarray) -> list[int]:
    return [int((labels[samples] == bucket).sum()) for bucket in BUCKETS]


# --- shares


@pytest.mark.parametrize("size", range(3, 65))
def test_the_shares_are_right_after_every_batch(size: int) -> None:
    labels = labels_of((40, 20, 9))
    sampler = BalancedSampler(labels, size)
    drawn = np.zeros(3)
    for step in range(40):
        batch = sampler.batch(step)
        assert len(batch) == size
        drawn += counts_of(labels, batch)
        assert np.abs(drawn - np.array(DEFAULT_SHARES) * size * (step + 1)).max() < 1
    # Every four batches the shares come out whole.
    assert drawn.tolist() == [20 * size, 10 * size, 10 * size]


@given(HUNDREDTHS, st.integers(3, 64), st.integers(1, 4), SIZES)
def test_whatever_the_shares_no_bucket_is_ever_a_sample_off(
    hundredths: tuple[int, int], size: int, world_size: int, sizes: tuple[int, ...]
) -> None:
    exact = [Fraction(n, 100) for n in (*hundredths, 100 - sum(hundredths))]
    labels = labels_of(sizes)
    sampler = BalancedSampler(
        labels, size * world_size, shares=[float(share) for share in exact], world_size=world_size
    )
    drawn = [0, 0, 0]
    for step in range(60):
        drawn = [a + b for a, b in zip(drawn, counts_of(labels, sampler.global_batch(step)), strict=True)]
        total = size * world_size * (step + 1)
        assert sum(drawn) == total
        assert all(abs(n - share * total) <= Fraction(5, 6) for n, share in zip(drawn, exact, strict=True))


def test_shares_stay_right_far_into_a_run() -> None:
    labels = labels_of((5, 5, 5))
    sampler = BalancedSampler(labels, 7, shares=(0.7, 0.2, 0.1))
    drawn = np.sum([counts_of(labels, sampler.batch(step)) for step in range(20_000)], axis=0)
    assert drawn.tolist() == [98_000, 28_000, 14_000]  # 20 000 batches of 7 are whole tenths: nothing is owed


def test_a_bucket_without_a_share_may_be_empty_and_is_never_drawn() -> None:
    labels = labels_of((10, 6, 0))
    sampler = BalancedSampler(labels, 8, shares=(2 / 3, 1 / 3, 0.0))
    seen = np.concatenate([sampler.batch(step) for step in range(30)])
    assert counts_of(labels, seen) == [160, 80, 0]


@given(st.lists(st.floats(-2, 40), min_size=2, max_size=6))
def test_apportionment_is_whole_and_within_one(credit: list[float]) -> None:
    total = round(sum(credit))
    assume(total >= 0)
    exact = np.array(credit)
    exact[np.argmax(exact)] += total - exact.sum()
    counts = apportion(exact, total)
    assert counts.sum() == total
    assert (counts >= 0).all()
    if (exact >= 0).all():
        assert (np.abs(counts - exact) < 1 + 1e-6).all()
        up, down = exact - counts > 1e-6, counts - exact > 1e-6
        if up.any() and down.any():  # whoever got one more had a larger remainder than whoever did not
            assert (exact - np.floor(exact))[down].min() >= (exact - np.floor(exact))[up].max() - 1e-6


def test_apportionment_by_hand() -> None:
    assert apportion(np.array([4.0, 2.0, 2.0]), 8).tolist() == [4, 2, 2]
    assert apportion(np.array([1.5, 0.75, 0.75]), 3).tolist() == [1, 1, 1]
    assert apportion(np.array([2.5, 1.25, 1.25]), 5).tolist() == [3, 1, 1]
    assert apportion(np.array([3.3, 0.2, -0.5]), 3).tolist() == [3, 0, 0]
    assert apportion(np.array([0.29 * 100, 0.71 * 100]), 100).tolist() == [29, 71]


# --- passes


@given(SIZES, st.integers(3, 40), st.integers(0, 2**33))
def test_every_sample_comes_once_in_every_pass(sizes: tuple[int, ...], size: int, seed: int) -> None:
    labels = labels_of(sizes)
    sampler = BalancedSampler(labels, size, seed=seed)
    stream = np.concatenate([sampler.batch(step) for step in range(25)])
    for bucket in BUCKETS:
        members = set(np.flatnonzero(labels == bucket).tolist())
        drawn = [i for i in stream.tolist() if labels[i] == bucket]
        for start in range(0, len(drawn), len(members)):
            whole_pass = drawn[start : start + len(members)]
            assert len(set(whole_pass)) == len(whole_pass)
            assert set(whole_pass) <= members
    assert set(labels[stream]) == set(BUCKETS)


@pytest.mark.parametrize("bucket_size", [30, 400])
def test_every_pass_has_an_order_of_its_own(bucket_size: int) -> None:
    labels = np.full(bucket_size, Label.EXPERT)
    sampler = BalancedSampler(labels, bucket_size, shares=(1.0, 0.0, 0.0))
    passes = [sampler.batch(step).tolist() for step in range(20)]
    assert all(sorted(p) == list(range(bucket_size)) for p in passes)
    assert len({tuple(p) for p in passes}) == len(passes)
    # No sample keeps its place from pass to pass: as often as chance has it, once in a pass.
    kept = np.mean([np.equal(a, b).sum() for a, b in pairwise(passes)])
    assert kept < 3


def test_shuffles_are_fair() -> None:
    # 600 passes over 6 samples: how often each comes first, against chance (100 +- 9).
    sampler = BalancedSampler(np.full(6, Label.EXPERT), 6, shares=(1.0, 0.0, 0.0))
    first = Counter(int(sampler.batch(step)[0]) for step in range(600))
    assert all(55 < first[i] < 145 for i in range(6))


def test_a_bucket_of_one_is_drawn_again_and_again() -> None:
    labels = labels_of((50, 1, 1))
    sampler = BalancedSampler(labels, 64)
    batch = sampler.batch(0)
    assert counts_of(labels, batch) == [32, 16, 16]
    assert len(set(batch.tolist())) == 34


# --- a function of seed and step


@given(SIZES, st.integers(3, 20), st.integers(0, 40), st.permutations(range(8)))
def test_a_step_is_the_same_in_whatever_order_it_is_asked_for(
    sizes: tuple[int, ...], size: int, start: int, order: list[int]
) -> None:
    # A resumed run asks for a late step first; a straight one has asked for all before it.
    labels = labels_of(sizes)
    straight = BalancedSampler(labels, size, seed=3)
    batches = [straight.batch(step).tolist() for step in range(start + 8)]
    resumed = BalancedSampler(labels, size, seed=3)
    for offset in order:
        assert resumed.batch(start + offset).tolist() == batches[start + offset]


def test_the_seed_decides() -> None:
    labels = labels_of((40, 40, 40))
    one, same, other = (BalancedSampler(labels, 16, seed=seed) for seed in (1, 1, 2))
    assert [one.batch(s).tolist() for s in range(9)] == [same.batch(s).tolist() for s in range(9)]
    assert one.batch(0).tolist() != other.batch(0).tolist()
    assert one.partner(one.batch(0)).tolist() != other.partner(one.batch(0)).tolist()


# --- ranks


@given(SIZES, st.integers(3, 12), st.integers(1, 8), st.integers(0, 30))
def test_the_ranks_together_see_what_one_process_sees(
    sizes: tuple[int, ...], size: int, world_size: int, step: int
) -> None:
    labels = labels_of(sizes)
    alone = BalancedSampler(labels, size * world_size)
    ranks = [BalancedSampler(labels, size * world_size, rank=r, world_size=world_size) for r in range(world_size)]
    parts = [rank.batch(step) for rank in ranks]
    assert [len(part) for part in parts] == [size] * world_size
    assert sorted(np.concatenate(parts).tolist()) == sorted(alone.batch(step).tolist())
    counts = np.array([counts_of(labels, part) for part in parts])
    assert (np.ptp(counts, axis=0) <= 1).all()  # no rank is a sample richer than another in any class


@given(SIZES, st.integers(3, 30), st.integers(1, 8), st.integers(0, 30))
def test_a_batch_that_does_not_divide_is_dealt_to_within_a_sample(
    sizes: tuple[int, ...], size: int, world_size: int, step: int
) -> None:
    assume(size >= world_size)
    labels = labels_of(sizes)
    whole = BalancedSampler(labels, size).batch(step)
    ranks = [BalancedSampler(labels, size, rank=r, world_size=world_size) for r in range(world_size)]
    places = [rank.batch_positions(step) for rank in ranks]
    assert sorted(np.concatenate(places).tolist()) == list(range(size))
    assert max(map(len, places)) - min(map(len, places)) <= 1
    for rank, own in zip(ranks, places, strict=True):
        assert rank.batch(step).tolist() == whole[own].tolist()
        assert all(ranks[0].batch_positions(step, r).tolist() == p.tolist() for r, p in enumerate(places))


@pytest.mark.parametrize(("size", "world_size"), [(3, 2), (3, 4), (5, 3), (6, 8), (8, 4)])
def test_no_rank_is_short_of_a_class_for_good(size: int, world_size: int) -> None:
    labels = labels_of((40, 20, 20))
    steps = 600
    for r in range(world_size):
        sampler = BalancedSampler(labels, size * world_size, rank=r, world_size=world_size)
        drawn = np.sum([counts_of(labels, sampler.batch(step)) for step in range(steps)], axis=0)
        # The deal is random: five standard deviations of a sum of independent halves of a sample.
        np.testing.assert_allclose(drawn, np.array(DEFAULT_SHARES) * size * steps, atol=5 * 0.5 * steps**0.5)


# --- partners


@given(SIZES, st.integers(0, 1000))
def test_partners_are_other_samples_and_everybody_is_somebodys(sizes: tuple[int, ...], seed: int) -> None:
    labels = labels_of(sizes, seed)
    sampler = BalancedSampler(labels, 8, seed=seed)
    drawable = np.flatnonzero(np.isin(labels, BUCKETS))
    partners = sampler.partner(drawable)
    assert (partners != drawable).all()
    assert sorted(partners.tolist()) == drawable.tolist()


@given(SIZES, st.integers(3, 30), st.integers(1, 4))
def test_partners_depend_on_neither_the_batch_nor_the_ranks(sizes: tuple[int, ...], size: int, world_size: int) -> None:
    labels = labels_of(sizes)
    drawable = np.flatnonzero(np.isin(labels, BUCKETS))
    expected = BalancedSampler(labels, 8, seed=5).partner(drawable)
    sampler = BalancedSampler(labels, size + 1, seed=5, rank=world_size - 1, world_size=world_size)
    sampler.batch(4)
    assert sampler.partner(drawable).tolist() == expected.tolist()
    assert sampler.partner(drawable[::-1]).tolist() == expected[::-1].tolist()


def test_partners_come_from_all_classes() -> None:
    labels = labels_of((200, 200, 200))
    sampler = BalancedSampler(labels, 8)
    for bucket in BUCKETS:
        met = counts_of(labels, sampler.partner(np.flatnonzero(labels == bucket)))
        assert min(met) > 30  # of 200; by chance about 67 each


def test_a_sample_that_is_never_drawn_has_no_partner() -> None:
    labels = np.array([Label.EXPERT, Label.POLICY, Label.HUMAN, Label.UNDESIRABLE])
    with pytest.raises(RoboprefError, match="partner"):
        BalancedSampler(labels, 4).partner(np.array([0, 1]))


# --- bad input


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 9, 9), r"no EXPERT samples: .*demonstrations"),
        ((9, 0, 0), r"no HUMAN samples: .*operator who takes over"),
        ((9, 9, 0), r"no UNDESIRABLE samples: .*takeover"),
    ],
)
def test_an_empty_class_is_named_with_what_to_do(sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(RoboprefError, match=message):
        BalancedSampler(labels_of(sizes), 8)


@pytest.mark.parametrize("size", [2, 1, 0, -4])
def test_batches_below_three_are_refused(size: int) -> None:
    with pytest.raises(RoboprefError, match="at least 3"):
        BalancedSampler(labels_of((9, 9, 9)), size)


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.5, 0.25, 0.5), (1.5, -0.25, -0.25), (float("nan"), 0.5, 0.5), (float("inf"), 0.0, 0.0)]
)
def test_shares_that_are_none(shares: tuple[float, ...]) -> None:
    with pytest.raises(RoboprefError, match="shares"):
        BalancedSampler(labels_of((9, 9, 9)), 8, shares=shares)


def test_impossible_ranks_seeds_and_steps() -> None:
    labels = labels_of((9, 9, 9))
    with pytest.raises(RoboprefError, match="rank 2"):
        BalancedSampler(labels, 8, rank=2, world_size=2)
    with pytest.raises(RoboprefError, match="some of the 9 processes without any"):
        BalancedSampler(labels, 8, world_size=9)
    with pytest.raises(RoboprefError, match="seed"):
        BalancedSampler(labels, 8, seed=-1)
    with pytest.raises(RoboprefError, match="step"):
        BalancedSampler(labels, 8).batch(-1)
