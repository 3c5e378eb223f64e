"""FAST tokens against SciPy's transform, on whatever chunks and whatever tokens a model may write."""

import json
import sys

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robopref.errors import RoboprefError
from robopref.policies.chunked_tokenizer import ChunkedActionTokenizer
from robopref.policies.fast_tokenizer import FastTokenizer, dct_matrix
from robopref.policies.tokenizer import ActionTokenizer
from robopref.policies.tokenizer_loading import tokenizer_from_json

H, A, SCALE = 8, 3, 10.0


def smooth_chunks(count, seed=0, horizon=H, size=A):
    """Sines of at most half a period per chunk, as arms move."""
    rng = np.random.default_rng(seed)
    phase, speed = rng.uniform(0, 2 * np.pi, (2, count, 1, size))
    time = np.linspace(0, 0.5, horizon)[:, None]
    return rng.uniform(0.2, 1, (count, 1, size)) * np.sin(phase + speed * time)


def fitted(**settings_):
    return FastTokenizer.fit(smooth_chunks(400), vocabulary_size=300, scale=SCALE, **settings_)


TOKENIZER = fitted()
CHUNKS = hnp.arrays(np.float64, (H, A), elements=st.floats(-1.5, 1.5))


def oracle(chunk):
    """Rounded coefficients [H, A] by SciPy, and what they decode to."""
    rounded = np.rint(scipy.fft.dct(np.clip(chunk, -1, 1), axis=0, norm="ortho") * SCALE)
    return rounded, np.clip(scipy.fft.idct(rounded / SCALE, axis=0, norm="ortho"), -1, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 50])
def test_the_transform_is_scipys_and_its_transpose_undoes_it(size):
    np.testing.assert_allclose(dct_matrix(size), scipy.fft.dct(np.eye(size), axis=0, norm="ortho"), atol=1e-12)
    np.testing.assert_allclose(dct_matrix(size).T @ dct_matrix(size), np.eye(size), atol=1e-12)


@given(CHUNKS)
def test_a_chunk_comes_back_to_within_the_rounding_of_its_coefficients(chunk):
    tokens = TOKENIZER.encode(chunk)
    decoded = TOKENIZER.decode(tokens)
    assert tokens.shape == (TOKENIZER.max_tokens,) == (H * A,)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, oracle(chunk)[1], atol=1e-6)
    error = np.sqrt(((decoded - np.clip(chunk, -1, 1)) ** 2).mean(axis=0))
    assert (error <= 0.5 / SCALE + 1e-6).all()
    count = np.count_nonzero(tokens)
    assert (tokens[:count] > 0).all()  # padded at the end only
    assert tokens.max() <= TOKENIZER.bins <= 300


def test_tokens_are_the_rounded_coefficients_low_frequencies_first():
    chunk = smooth_chunks(1, seed=5)[0]
    tokens = TOKENIZER.encode(chunk)
    written = np.concatenate([TOKENIZER._pieces[t] for t in tokens])
    np.testing.assert_array_equal(written, oracle(chunk)[0].reshape(-1))  # [frequency, dimension]
    cut = np.zeros(H * A)
    kept = np.concatenate([TOKENIZER._pieces[t] for t in tokens[:2]])
    cut[: len(kept)] = kept
    wanted = np.clip(scipy.fft.idct(cut.reshape(H, A) / SCALE, axis=0, norm="ortho"), -1, 1)
    np.testing.assert_allclose(TOKENIZER.decode(tokens[:2]), wanted, atol=1e-6)


@given(hnp.arrays(np.int64, st.integers(0, 3 * H * A), elements=st.integers(0, TOKENIZER.bins)))
def test_whatever_a_model_writes_decodes_to_an_action_up_to_the_first_zero(tokens):
    decoded = TOKENIZER.decode(tokens)
    assert decoded.shape == (H, A)
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() <= 1
    ends = np.flatnonzero(tokens == 0)
    np.testing.assert_array_equal(decoded, TOKENIZER.decode(tokens[: ends[0] if len(ends) else None]))


def test_batches_of_any_shape_are_what_their_chunks_are():
    chunks = smooth_chunks(6, seed=3)
    tokens = TOKENIZER.encode(chunks.reshape(2, 3, H, A))
    assert tokens.shape == (2, 3, H * A)
    decoded = TOKENIZER.decode(tokens)
    for i, chunk in enumerate(chunks):
        np.testing.assert_array_equal(tokens.reshape(6, -1)[i], TOKENIZER.encode(chunk))
        np.testing.assert_array_equal(decoded.reshape(6, H, A)[i], TOKENIZER.decode(TOKENIZER.encode(chunk)))
    assert TOKENIZER.encode(chunks[:0]).shape == (0, H * A)
    assert TOKENIZER.decode(np.zeros((0, 5), dtype=int)).shape == (0, H, A)


def test_coefficients_that_the_data_never_had_are_encoded():
    still = FastTokenizer.fit(np.zeros((4, H, A)), vocabulary_size=100, scale=SCALE)
    extreme = np.where(np.arange(H)[:, None] % 2, 1.0, -1.0) * np.ones(A)
    for chunk in (extreme, np.ones((H, A)), -np.ones((H, A)), 1e9 * extreme):
        np.testing.assert_allclose(still.decode(still.encode(chunk)), oracle(chunk)[1], atol=1e-6)


def test_smooth_chunks_take_far_fewer_tokens_than_bins_do_and_noise_takes_more():
    smooth = np.count_nonzero(TOKENIZER.encode(smooth_chunks(200, seed=9)), axis=1).mean()
    noise = np.random.default_rng(0).uniform(-1, 1, (200, H, A))
    rough = np.count_nonzero(TOKENIZER.encode(noise), axis=1).mean()
    binned = ChunkedActionTokenizer(H, A).action_tokens(A)
    assert smooth < 0.45 * binned
    assert smooth < 0.6 * rough
    assert rough <= binned


def test_the_same_chunks_give_the_same_tokenizer_and_json_keeps_it():
    assert fitted() == TOKENIZER
    fields = json.loads(json.dumps(TOKENIZER.to_json()))
    again = tokenizer_from_json(fields)
    assert again == TOKENIZER
    assert again.to_json() == TOKENIZER.to_json()
    chunks = smooth_chunks(50, seed=4)
    np.testing.assert_array_equal(again.encode(chunks), TOKENIZER.encode(chunks))


def test_the_last_valid_action_is_held_to_the_end():
    chunks = smooth_chunks(3, seed=6)
    valid = np.arange(H) < np.array([[3], [H], [0]])
    given_ = np.where(valid[..., None], chunks, np.nan)
    tokens = TOKENIZER.encode_chunks(given_, valid)
    held = chunks[0].copy()
    held[3:] = held[2]
    np.testing.assert_array_equal(tokens[0], TOKENIZER.encode(held))
    np.testing.assert_array_equal(tokens[1], TOKENIZER.encode(chunks[1]))
    assert (tokens[2] == 0).all()


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 5), st.floats(0.5, 40), st.integers(0, 1000))
def test_every_size_and_scale_stays_within_its_bound(horizon, size, scale, seed):
    chunks = np.random.default_rng(seed).uniform(-1, 1, (5, horizon, size))
    tokenizer = FastTokenizer.fit(chunks, vocabulary_size=1024, scale=scale)
    error = tokenizer.decode(tokenizer.encode(chunks)) - chunks
    assert np.sqrt((error**2).mean(axis=1)).max() <= 0.5 / scale + 1e-6


# --- mistakes


@pytest.mark.parametrize(
    ("chunks", "keywords", "message"),
    [
        (smooth_chunks(1), {}, "at least 2 chunks"),
        (smooth_chunks(4)[:, 0], {}, "at least 2 chunks"),
        (np.full((4, H, A), np.nan), {}, "NaN"),
        (smooth_chunks(4), {"vocabulary_size": 50}, "more than a vocabulary of 50"),
        (smooth_chunks(4), {"scale": 0.0}, "positive scale"),
        (smooth_chunks(4), {"scale": float("nan")}, "positive scale"),
        (smooth_chunks(4), {"scale": 1e6}, "too fine"),
        (np.zeros((4, 0, A)), {}, "at least 1 x 1"),
    ],
)
def test_what_cannot_be_fitted_is_refused(chunks, keywords, message):
    with pytest.raises(RoboprefError, match=message):
        FastTokenizer.fit(chunks, **keywords)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros((H + 1, A)), "expected chunks"),
        (np.zeros((H, A + 1)), "expected chunks"),
        (np.zeros(A), "expected chunks"),
        (np.full((H, A), np.nan), "NaN"),
    ],
)
def test_chunks_that_do_not_fit_are_refused(chunk, message):
    with pytest.raises(RoboprefError, match=message):
        TOKENIZER.encode(chunk)


def test_tokens_that_there_are_not_and_other_action_sizes_are_refused():
    with pytest.raises(RoboprefError, match="run from 1"):
        TOKENIZER.decode(np.array([TOKENIZER.bins + 1]))
    with pytest.raises(RoboprefError, match="run from 1"):
        TOKENIZER.decode(np.array([-1]))
    with pytest.raises(RoboprefError, match="3 dimensions, not 7"):
        TOKENIZER.action_tokens(7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "{"}, "cannot be read"),
        ({"model": "[]"}, "cannot be read"),
        ({"scale": 20.0}, "does not cover"),
        ({"horizon": "8"}, "lacks or has unknown fields"),
        ({"kind": "later"}, "does not know action tokens of kind 'later'"),
    ],
)
def test_damaged_descriptions_are_refused(change, message):
    with pytest.raises(RoboprefError, match=message):
        tokenizer_from_json(TOKENIZER.to_json() | change)
    without = TOKENIZER.to_json()
    del without["model"]
    with pytest.raises(RoboprefError, match="lacks"):
        tokenizer_from_json(without)


def test_without_the_library_it_is_said_what_to_install_and_decoding_goes_on(monkeypatch):
    tokens = TOKENIZER.encode(smooth_chunks(1)[0])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    loaded = FastTokenizer.from_json(TOKENIZER.to_json())
    np.testing.assert_array_equal(loaded.decode(tokens), TOKENIZER.decode(tokens))
    with pytest.raises(RoboprefError, match=r"pip install robopref\[vla\]"):
        loaded.encode(smooth_chunks(1)[0])
    with pytest.raises(RoboprefError, match=r"pip install robopref\[vla\]"):
        fitted()


# --- binned chunks


@given(CHUNKS)
def test_binned_chunks_are_the_plain_tokens_one_action_after_the_other(chunk):
    tokenizer, plain = ChunkedActionTokenizer(H, A), ActionTokenizer()
    valid = np.arange(H) < 5
    tokens = tokenizer.encode_chunks(chunk[None], valid[None])[0]
    np.testing.assert_array_equal(tokens[: 5 * A], plain.encode(chunk[:5]).reshape(-1))
    assert (tokens[5 * A :] == 0).all()
    decoded = tokenizer.decode(tokens)
    np.testing.assert_array_equal(decoded[:5], plain.decode(plain.encode(chunk[:5])))
    assert np.isnan(decoded[5:]).all()


def test_all_tokenizers_come_back_from_json():
    for tokenizer in (ActionTokenizer(), ActionTokenizer(7, -2.0, 3.0), ChunkedActionTokenizer(4, 7), TOKENIZER):
        assert tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json()))) == tokenizer
    assert set(ActionTokenizer().to_json()) == {"bins", "low", "high"}  # as checkpoints have always had it


def test_binned_chunks_of_other_shapes_are_refused():
    tokenizer = ChunkedActionTokenizer(4, 2)
    with pytest.raises(RoboprefError, match="a chunk has 8 tokens"):
        tokenizer.decode(np.ones(7, dtype=int))
    with pytest.raises(RoboprefError, match="1 to 256"):
        tokenizer.decode(np.full(8, 257))
    with pytest.raises(RoboprefError, match="expected chunks"):
        tokenizer.encode_chunks(np.zeros((1, 4, 3)), np.ones((1, 4), dtype=bool))
    with pytest.raises(RoboprefError, match="NaN"):
        tokenizer.encode_chunks(np.full((1, 4, 2), np.nan), np.ones((1, 4), dtype=bool))
    with pytest.raises(RoboprefError, match="at least one action"):
        ChunkedActionTokenizer(0, 2)
    with pytest.raises(RoboprefError, match="2 dimensions, not 3"):
        tokenizer.action_tokens(3)
