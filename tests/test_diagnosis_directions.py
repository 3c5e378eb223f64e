import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from robopref.diagnosis import principal_directions
from robopref.diagnosis.directions import StreamingDirections
from robopref.errors import RoboprefError


def dense(gradients):
    """The definition: eigenvalues and eigenvectors (rows) of sum g g^T, largest first."""
    gradients = np.asarray(gradients, dtype=np.float64)
    values, vectors = np.linalg.eigh(sum(np.outer(g, g) for g in gradients))
    return values[::-1], vectors[:, ::-1].T


def with_spectrum(n, d, eigenvalues, seed=0):
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(n, len(eigenvalues))))[0]
    right = np.linalg.qr(rng.normal(size=(d, len(eigenvalues))))[0]
    return left * np.sqrt(eigenvalues) @ right.T, right.T


def angle(a, b):
    return subspace_angles(np.atleast_2d(a).T, np.atleast_2d(b).T).max()


@given(
    st.integers(1, 12), st.integers(1, 12), st.sampled_from([1.0, 1e-12, 1e12]), st.booleans(), st.integers(0, 2**31)
)
@settings(max_examples=150)
def test_it_agrees_with_the_dense_decomposition(n, d, scale, single, seed):
    rng = np.random.default_rng(seed)
    gradients = scale * rng.normal(size=(n, d)) * rng.choice([0, 1, 1], size=(n, 1))
    if single:
        gradients = gradients.astype(np.float32)
    k = int(rng.integers(1, d + 1))
    found = principal_directions(gradients, k)
    values, _ = dense(gradients)
    assert (found.n_states, found.n_zero) == (n, int((gradients == 0).all(axis=1).sum()))
    assert found.trace == pytest.approx(values.sum(), rel=1e-6)
    np.testing.assert_allclose(found.eigenvalues, values[:k], atol=1e-9 * values[0])
    if found.vanished:
        assert not found.directions.any()
        assert found.eigengap is None
        return
    spanned = int((found.eigenvalues > 0).sum())
    assert spanned == min(k, np.linalg.matrix_rank(gradients))
    np.testing.assert_allclose(
        found.directions @ found.directions.T, np.diag([1.0] * spanned + [0.0] * (k - spanned)), atol=1e-9
    )
    second = np.sort(dense(gradients @ found.directions[:1].T @ found.directions[:1])[0])[-1]
    assert second == pytest.approx(values[0], rel=1e-6)  # the energy along the first direction is lambda_1
    assert (np.take_along_axis(found.directions, np.abs(found.directions).argmax(1)[:, None], 1)[:spanned] > 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 700), (700, 40), (700, 800), (900, 600)])  # dense and Lanczos, wide and tall
@pytest.mark.parametrize("second", [0.2, 0.99, 0.999, 1.0])
def test_near_degenerate_spectra(dtype, shape, second):
    spectrum = np.concatenate([[1.0, second, 0.15], 0.1 * 0.9 ** np.arange(30)])
    gradients, right = with_spectrum(*shape, spectrum)
    found = principal_directions(gradients.astype(dtype), 2)
    precise = 1e-6 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(found.eigenvalues, spectrum[:2], rtol=1e-6 if dtype == np.float32 else 1e-12)
    assert angle(found.directions, right[:2]) < precise
    if second < 1:
        gap = 1 - second
        assert angle(found.directions[0], right[0]) < (1e-8 if dtype == np.float64 else 1e-6) / gap
    assert found.eigengap == pytest.approx(second, rel=1e-6)
    assert np.abs(found.eigenvalues - spectrum[:2]).max() <= found.error_bound + 1e-6 * (dtype == np.float32) + 1e-14


def test_a_flat_spectrum_in_the_iterative_solver():
    gradients = np.random.default_rng(0).normal(size=(600, 700))
    values, vectors = dense(gradients)
    found = principal_directions(gradients, 3)
    np.testing.assert_allclose(found.eigenvalues, values[:3], rtol=1e-10)
    assert angle(found.directions, vectors[:3]) < 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 700), (700, 800), (900, 600)])
@pytest.mark.parametrize("second", [0.1, 0.999, 1.0])
def test_further_directions_are_rough_and_leave_the_first_ones_alone(dtype, shape, second):
    spectrum = np.concatenate([[1.0, second], 0.05 * 0.98 ** np.arange(30)])
    gradients, right = with_spectrum(*shape, spectrum)
    found = principal_directions(gradients.astype(dtype), 2, further=10)
    np.testing.assert_allclose(found.eigenvalues[:2], spectrum[:2], rtol=1e-6)
    assert angle(found.directions[:2], right[:2]) < 1e-4
    np.testing.assert_allclose(found.eigenvalues[2:], spectrum[2:12], atol=1e-3)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(12), atol=1e-6)
    assert (np.diff(found.eigenvalues) <= 0).all()
    assert found.error_bound < 1e-5
    assert len(principal_directions(gradients[:, :20], 2, further=100).eigenvalues) == 20


def test_six_equal_eigenvalues_are_all_found():
    gradients, right = with_spectrum(600, 650, np.array([1.0] * 6 + [0.5] * 10))
    found = principal_directions(gradients, 6)
    np.testing.assert_allclose(found.eigenvalues, 1, rtol=1e-10)
    assert angle(found.directions, right[:6]) < 1e-6


def test_more_directions_than_the_gradients_span():
    gradients, _ = with_spectrum(600, 650, np.array([4.0, 1.0]))
    found = principal_directions(gradients, 4)
    np.testing.assert_allclose(found.eigenvalues, [4, 1, 0, 0], atol=1e-12)
    assert not found.directions[2:].any()
    one = principal_directions(np.array([[3.0, 4.0]]), 2)
    np.testing.assert_allclose(one.directions, [[0.6, 0.8], [0, 0]])
    assert (one.eigengap, one.share[0]) == (0, 1)


@pytest.mark.parametrize("shape", [(20, 30), (600, 610)])
def test_tiny_gradients_in_float32_keep_their_direction(shape):
    gradients, right = with_spectrum(*shape, np.array([1.0, 0.5, 0.1]))
    found = principal_directions((1e-30 * gradients).astype(np.float32), 2)
    np.testing.assert_allclose(found.eigenvalues, [1e-60, 5e-61], rtol=1e-5)
    assert angle(found.directions[0], right[0]) < 1e-5


def test_the_mean_is_not_taken_away():
    gradients = np.array([1.0, 0, 0]) + 0.1 * np.random.default_rng(0).normal(size=(50, 3))
    assert principal_directions(gradients, 1).directions[0] @ [1, 0, 0] > 0.99


def test_all_zero_gradients_are_said_to_vanish():
    for found in (principal_directions(np.zeros((5, 8), np.float32)), stream(np.zeros((50, 8)), 5).result()):
        assert found.vanished
        assert (found.n_zero, found.n_states) == (found.n_states, found.n_states)
        assert not np.isnan(found.directions).any()
        assert not found.eigenvalues.any()
        assert not found.share.any()


def stream(gradients, rank, batch=7):
    streaming = StreamingDirections(gradients.shape[1], rank)
    for start in range(0, len(gradients), batch):
        streaming.update(gradients[start : start + batch])
    return streaming


@given(
    st.integers(1, 80),
    st.integers(5, 30),
    st.integers(5, 12),
    st.floats(0, 3),
    st.integers(1, 40),
    st.integers(0, 2**31),
)
@settings(max_examples=100)
def test_the_stream_keeps_its_bound(n, d, rank, decay, batch, seed):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -decay
    if rng.random() < 0.3:
        gradients = gradients[np.argsort(np.linalg.norm(gradients, axis=1))]  # the worst order: the strongest come last
    streaming = stream(gradients, rank, batch)
    values, _ = dense(gradients)
    k = min(rank, d)
    found = streaming.result(k)
    slack = 1e-12 * values.sum()
    assert (found.eigenvalues <= values[:k] + slack).all()
    assert (values[:k] <= found.eigenvalues + found.error_bound + slack).all()
    rows = streaming.rows()  # may compress once more
    error = np.linalg.eigvalsh(gradients.T @ gradients - rows.T @ rows)
    assert error.min() >= -slack
    assert error.max() <= streaming.error_bound + slack
    assert len(rows) <= rank
    for j in range(int(np.ceil(rank / 5))):
        assert streaming.error_bound <= values[j:].sum() / (rank / 5 - j) + slack  # promised before seeing any
    assert (found.n_states, found.trace) == (n, pytest.approx(values.sum()))


@pytest.mark.parametrize("second", [0.99, 0.999, 1.0])
def test_the_stream_on_near_degenerate_spectra(second):
    spectrum = np.concatenate([[1.0, second], 0.01 * 0.5 ** np.arange(20)])
    gradients, right = with_spectrum(300, 60, spectrum)
    found = stream(gradients, 20).result(2)
    np.testing.assert_allclose(found.eigenvalues, spectrum[:2], atol=1e-6)
    assert angle(found.directions, right[:2]) < 1e-5
    assert found.method == "streaming"


def test_more_than_the_memory_limit_is_streamed():
    gradients, _ = with_spectrum(400, 50, 0.5 ** np.arange(20))
    whole = principal_directions(gradients, 2)
    pieces = [gradients[i : i + 30] for i in range(0, 400, 30)]
    in_memory = principal_directions(iter(pieces), 2)
    assert (whole.method, in_memory.method) == ("exact", "exact")
    np.testing.assert_allclose(in_memory.directions, whole.directions)
    for streamed in (
        principal_directions(gradients, 2, memory_limit=gradients.nbytes - 1),
        principal_directions(iter(pieces), 2, memory_limit=2 * gradients.nbytes - 1),
        principal_directions(iter(pieces), 1, further=1, memory_limit=2 * gradients.nbytes - 1),
    ):
        assert streamed.method == "streaming"
        np.testing.assert_allclose(streamed.directions, whole.directions, atol=1e-6)
        assert (np.abs(streamed.eigenvalues - whole.eigenvalues) <= streamed.error_bound + 1e-12).all()
    with pytest.raises(RoboprefError, match="needs memory_limit >= 8000 bytes"):
        principal_directions(gradients, 2, memory_limit=1000)


@pytest.mark.parametrize(
    ("gradients", "k", "message"),
    [
        (np.zeros((0, 4)), 2, "at least one gradient"),
        (iter([]), 2, "at least one gradient"),
        (np.zeros(4), 2, r"must be \[N, d\]"),
        ([np.ones((2, 4)), np.ones((2, 5))], 2, r"must be \[N, 4\]"),
        (np.ones((3, 4)), 5, "k must lie in 1 to d = 4"),
        (np.ones((3, 4)), 0, "k must lie"),
        (np.array([[1.0, np.nan]]), 1, "finite"),
        (np.array([[1.0, np.inf]]), 1, "finite"),
        (np.array([[1.0, -np.inf]]), 1, "finite"),
        (np.array([[1.0, 1e200]]), 1, "square overflows"),
    ],
)
def test_bad_input_is_refused(gradients, k, message):
    with pytest.raises(RoboprefError, match=message):
        principal_directions(gradients, k)


def test_bad_streams_are_refused():
    with pytest.raises(RoboprefError, match="rank >= 5"):
        StreamingDirections(10, 4)
    with pytest.raises(RoboprefError, match="at least one gradient"):
        StreamingDirections(10, 5).result()
    streaming = stream(np.ones((3, 10)), 5)
    with pytest.raises(RoboprefError, match="finite"):
        streaming.update(np.full((1, 10), np.nan))
    with pytest.raises(RoboprefError, match=r"\[N, 10\]"):
        streaming.update(np.ones((1, 9)))
    with pytest.raises(RoboprefError, match="k must lie in 1 to 5"):
        streaming.result(6)
