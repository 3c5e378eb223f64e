"""Principal directions of a set of gradients: the leading eigenvectors of L = sum_i g_i g_i^T, never forming L [d, d].

L is not centred: a gradient that is the same in all states is the most principal of all.

In memory the solver is block Lanczos with full reorthogonalisation (Golub and Underwood 1977; Saad, "Numerical Methods
for Large Eigenvalue Problems", 2011) on the Gram matrix of the shorter side, applied as two products with the gradient
matrix. A block finds eigenvalues that are equal, or nearly so, where a power iteration returns a wrong vector.

As a stream it is Frequent Directions (Liberty, KDD 2013; Ghashami et al., SIAM J. Computing 2016) in the variant that
shrinks only the smallest kept values, and so leaves the leading ones unbiased (Desai, Ghashami and Phillips, "Improved
Practical Matrix Sketching with Guarantees", TKDE 2016).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from robopref.errors import RoboprefError

_DENSE_SIDE = 512  # up to here the Gram matrix of the shorter side is formed
_BLOCK_BYTES = 4 * 2**20  # rows converted to float64 at once: few enough to stay in the cache
_INNER = 4096  # terms summed in float32 before the sum moves on to float64
_OVERSAMPLED = 6  # columns of the first block beyond those asked for
_LARGEST_RANK = 256
_SHRUNK_SHARE = 0.2  # of the kept rows, as in Desai et al.
ROUGH = 1e-3  # residual of the further directions, over lambda_1
_SMALLEST_TRACE = 1e-290  # below, squares of gradients lose their digits even in float64


@dataclass(frozen=True)
class PrincipalDirections:
    """Leading eigenvectors of L, largest eigenvalue first.

    Attributes:
        directions: [k, d] orthonormal float64 rows, each with its largest component positive; a row of zeros where
            the gradients span fewer than k dimensions.
        eigenvalues: [k] float64, in units of squared gradient, summed over states.
        n_states: states behind L.
        n_zero: of these, states whose gradient is exactly zero.
        trace: of L, the sum of squared gradient norms.
        error_bound: an eigenvalue lies this close to each one given ("further" ones aside). "exact": the residual norm
            |L v - lambda v|, in float64. "streaming": eigenvalues given are never above the true ones, nor further
            than this below them.
        method: how they were found.
    """

    directions: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    n_states: int
    n_zero: int
    trace: float
    error_bound: float
    method: Literal["exact", "streaming"]

    @property
    def vanished(self) -> bool:
        """No gradient is large enough to define a direction; directions and eigenvalues are zeros."""
        return self.trace < _SMALLEST_TRACE

    @property
    def share(self) -> NDArray[np.float64]:
        """Each eigenvalue over the trace [k], in [0, 1]; zeros if all directions vanished."""
        if self.vanished:
            return np.zeros_like(self.eigenvalues)
        return np.minimum(self.eigenvalues / self.trace, 1)  # the two are summed in another order

    @property
    def eigengap(self) -> float | None:
        """lambda_2 / lambda_1 in [0, 1]; near 1 the first direction is arbitrary. None for k = 1 or if vanished."""
        if self.vanished or len(self.eigenvalues) < 2:
            return None
        return float(self.eigenvalues[1] / self.eigenvalues[0])


def principal_directions(
    gradients: NDArray[Any] | Iterable[NDArray[Any]],
    k: int = 2,
    *,
    further: int = 0,
    memory_limit: int | None = None,
) -> PrincipalDirections:
    """The k leading eigenvectors of L = sum of g g^T over the rows g of ``gradients``.

    Args:
        gradients: [N, d] floats, or an iterable of such pieces [n, d] (a generator of batches, say).
        k: directions asked for, 1 <= k <= d.
        further: directions after these that may be rough, for a basis rather than for themselves: in memory they are
            taken as soon as their residual norm is a thousandth of lambda_1, which saves most of the work where the
            spectrum is flat. ``error_bound`` does not speak of them. As many as there are up to d.
        memory_limit: bytes that may be held. When the gradients (twice over, if they come in pieces) exceed it, they
            are streamed through ``StreamingDirections`` of the rank that fits. Without it all are held in memory.

    Returns:
        The directions, with ``method`` "exact" or "streaming" and the error bound that goes with it. If all gradients
        are zero, ``vanished`` is true and nothing else should be read from it.

    Raises:
        RoboprefError: no gradients, a wrong shape, values that are not finite, or a memory limit too small for d.
    """
    pieces: list[NDArray[Any]] = []
    stream: StreamingDirections | None = None
    whole = isinstance(gradients, np.ndarray)
    held = 0
    source: Iterable[NDArray[Any]] = [gradients] if isinstance(gradients, np.ndarray) else gradients
    for piece in source:
        piece = _checked_shape(piece, k, pieces[0].shape[1] if pieces else stream.dimension if stream else None)
        if stream is None:
            pieces.append(piece)
            held += piece.nbytes * (1 if whole else 2)  # pieces are copied into one matrix at the end
            if memory_limit is not None and held > memory_limit:
                stream = StreamingDirections(piece.shape[1], fitting_rank(memory_limit, piece.shape[1], k + further))
                while pieces:
                    stream.update(pieces.pop(0))
        else:
            stream.update(piece)
    if stream is not None:
        return stream.result(min(k + further, stream.dimension))
    if held == 0:
        raise RoboprefError("principal directions need at least one gradient, got an empty set.")
    return _exact(pieces[0] if len(pieces) == 1 else np.concatenate(pieces), k, further)


class StreamingDirections:
    """Principal directions of gradients that come in batches, in memory that does not grow with their number.

    Keeps B [rank, d] such that, for every i, lambda_i(B^T B) <= lambda_i(L) <= lambda_i(B^T B) + ``error_bound``: each
    time 2 * rank rows have come together, their SVD is cut to ``rank`` rows, the smallest fifth of these is shrunk by
    the first squared singular value that is lost, and the bound grows by that value. It never exceeds
    |G - G_j|_F^2 / (rank / 5 - j) for any j < rank / 5, where G_j is the best approximation of rank j. The directions
    turn by at most error_bound / (lambda_1 - lambda_2), to first order.

    Holds up to 32 * rank * d bytes beside the batch and takes about 12 * rank * d operations a row.

    Args:
        dimension: d of the gradients.
        rank: rows kept, at least 5.

    Raises:
        RoboprefError: a dimension or rank too small.
    """

    def __init__(self, dimension: int, rank: int = 64) -> None:
        if dimension < 1 or rank < 5:
            raise RoboprefError(f"streaming needs a dimension >= 1 and a rank >= 5, got {dimension} and {rank}.")
        self.dimension, self.rank = dimension, rank
        self.n_states = self.n_zero = 0
        self.trace = self.error_bound = 0.0
        self._buffer = np.zeros((2 * rank, dimension))
        self._filled = 0

    def update(self, gradients: NDArray[Any]) -> None:
        """Take in gradients [n, d]. Raises RoboprefError for a wrong shape or values that are not finite."""
        gradients = _checked_shape(gradients, 1, self.dimension)
        start = 0
        while start < len(gradients):
            if self._filled == len(self._buffer):
                self._compress()
            rows = self._buffer[self._filled : self._filled + len(gradients) - start]
            rows[:] = gradients[start : start + len(rows)]
            squares = _squared_norms(rows)
            self.n_states += len(rows)
            self.n_zero += int((squares == 0).sum())
            self.trace += float(squares.sum())
            self._filled += len(rows)
            start += len(rows)

    def rows(self) -> NDArray[np.float64]:
        """B [at most rank, d]: orthogonal rows, longest first, with B^T B as close to L as ``error_bound`` says."""
        if self._filled > self.rank:
            self._compress()
        squares, rows = _orthogonal_rows(self._buffer[: self._filled], self.rank)
        return rows[: max(1, int((squares > 0).sum()))]

    def result(self, k: int = 2) -> PrincipalDirections:
        """The k leading directions so far; more gradients may follow.

        Raises:
            RoboprefError: no gradients yet, or k above d or the rank.
        """
        if self.n_states == 0:
            raise RoboprefError("principal directions need at least one gradient, got an empty set.")
        if not 1 <= k <= min(self.rank, self.dimension):
            raise RoboprefError(f"k must lie in 1 to {min(self.rank, self.dimension)} (the rank, d), got {k}.")
        squares, rows = _orthogonal_rows(self._buffer[: self._filled], k)
        return _assemble(rows, squares, k, self.n_states, self.n_zero, self.trace, self.error_bound, "streaming")

    def _compress(self) -> None:
        squares, rows = _orthogonal_rows(self._buffer[: self._filled], self.rank + 1)
        lost = float(squares[self.rank])
        shrunk = slice(self.rank - int(np.ceil(_SHRUNK_SHARE * self.rank)), self.rank)
        remaining = np.ones(self.rank)
        if squares[self.rank - 1] > 0:
            remaining[shrunk] = 1 - lost / squares[shrunk]
        self._buffer[: self.rank] = np.sqrt(remaining)[:, None] * rows[: self.rank]
        self._filled = self.rank
        self.error_bound += lost


def _exact(gradients: NDArray[Any], k: int, further: int = 0) -> PrincipalDirections:
    n_states, dimension = gradients.shape
    rank = min(k + further, dimension)
    largest = _largest(gradients)
    if largest == 0:
        return _assemble(np.zeros((0, dimension)), np.zeros(0), rank, n_states, n_states, 0.0, 0.0, "exact")
    wide = gradients if n_states <= dimension else gradients.T
    if len(wide) <= _DENSE_SIDE:
        values, vectors = _gram_vectors(wide, rank)
    else:
        values, vectors = _block_lanczos(wide, k, rank, scale=largest * np.sqrt(dimension))
    if n_states <= dimension:
        vectors = _product(wide.T, vectors)
    basis = np.linalg.qr(vectors / np.maximum(np.linalg.norm(vectors, axis=0), np.finfo(np.float64).tiny))[0]

    # The first k once more in float64, whatever the precision of the gradients: values, residual and trace.
    first, image, trace, n_zero = basis[:, :k], np.zeros((dimension, min(k, basis.shape[1]))), 0.0, 0
    for block in _blocks(gradients):
        squares = np.einsum("nd,nd->n", block, block)
        trace += float(squares.sum())
        n_zero += int((~block.any(axis=1)).sum())
        image += block.T @ (block @ first)
    if trace < _SMALLEST_TRACE:
        return _assemble(np.zeros((0, dimension)), np.zeros(0), rank, n_states, n_zero, trace, 0.0, "exact")
    refined, rotation = scipy.linalg.eigh(first.T @ image)
    refined, rotation = refined[::-1], rotation[:, ::-1]
    residual = np.linalg.norm(image @ rotation - first @ rotation * refined, axis=0).max()
    basis = np.hstack([first @ rotation, basis[:, k:]])
    values = np.concatenate([refined, np.minimum(values[k:], refined[-1])])
    return _assemble(basis.T, values, rank, n_states, n_zero, trace, float(residual), "exact")


def _block_lanczos(
    wide: NDArray[Any], k: int, rank: int, scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The leading eigenvalues [rank] and eigenvectors [n, rank] of wide @ wide.T, n = len(wide).

    The first k to a residual of 1e-6 lambda_1 (of 1e-10 lambda_1 for float64), the others of 1e-3 lambda_1.
    """
    if wide.dtype == np.float32 and scale < 1e-25:  # products of such gradients underflow in float32
        wide = wide.astype(np.float64)

    def gram_times(block: NDArray[np.float64]) -> NDArray[np.float64]:
        return _product(wide, _product(wide.T, block) / scale) / scale

    size = len(wide)
    rank = min(rank, size)
    tolerances = np.full(rank, ROUGH)
    tolerances[:k] = 1e-6 if wide.dtype == np.float32 else 1e-10
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((size, min(rank + _OVERSAMPLED, size))))[0]
    image = gram_times(basis)
    while True:
        values, ritz = scipy.linalg.eigh(basis.T @ image)
        values, ritz = values[: -rank - 1 : -1], ritz[:, : -rank - 1 : -1]
        vectors = basis @ ritz
        residuals = image @ ritz - vectors * values
        norms = np.linalg.norm(residuals, axis=0)
        missed = norms > tolerances * values[0]
        if not missed.any() or basis.shape[1] == size:
            return values * scale**2, vectors
        # What has converged stays in the basis and needs no more products; residuals span what the next block would.
        block = (residuals / np.maximum(norms, np.finfo(np.float64).tiny))[:, missed][:, : size - basis.shape[1]]
        for _ in range(3):  # twice is enough (Kahan) unless the block lost rank and the QR made up columns
            block = np.linalg.qr(block - basis @ (basis.T @ block))[0]
        basis, image = np.hstack([basis, block]), np.hstack([image, gram_times(block)])


def _gram_vectors(wide: NDArray[Any], k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The leading eigenpairs [at most k] and [n, at most k] of wide @ wide.T by a dense decomposition in float64."""
    gram = np.zeros((len(wide), len(wide)))
    for block in _blocks(wide.T):
        gram += block.T @ block
    values, vectors = np.linalg.eigh(gram)
    return values[: -k - 1 : -1], vectors[:, : -k - 1 : -1]


def _orthogonal_rows(rows: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(s^2 [c], S V^T [c, d]) of the SVD of rows [n, d], the c = min(count, n) largest first."""
    squares, vectors = np.linalg.eigh(rows @ rows.T)
    squares, vectors = np.maximum(squares[: -count - 1 : -1], 0), vectors[:, : -count - 1 : -1]
    return squares, vectors.T @ rows


def _assemble(
    rows: NDArray[np.float64],
    values: NDArray[np.float64],
    k: int,
    n_states: int,
    n_zero: int,
    trace: float,
    error_bound: float,
    method: Literal["exact", "streaming"],
) -> PrincipalDirections:
    """Rows [c, d] of any length, c <= k, with their eigenvalues, in the form that ``PrincipalDirections`` states."""
    directions, eigenvalues = np.zeros((k, rows.shape[1])), np.zeros(k)
    rounding = 4 * np.finfo(np.float64).eps * (n_states + rows.shape[1])
    for i, (row, value) in enumerate(zip(rows, values, strict=True)):
        if value > rounding * values[0]:  # a smaller one is rounding error, and so would its direction be
            directions[i] = row * (np.sign(row[np.abs(row).argmax()]) / np.linalg.norm(row))
            eigenvalues[i] = value
    return PrincipalDirections(directions, eigenvalues, n_states, n_zero, trace, error_bound, method)


def _product(matrix: NDArray[Any], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """matrix [n, m] @ other [m, c]; for a float32 matrix in its precision, but with long sums carried in float64."""
    if matrix.dtype == np.float64:
        return matrix @ other
    total = np.zeros((len(matrix), other.shape[1]))
    for start in range(0, len(other), _INNER):
        inner = slice(start, start + _INNER)
        total += matrix[:, inner] @ other[inner].astype(np.float32)
    return total


def _blocks(matrix: NDArray[Any]) -> Iterable[NDArray[np.float64]]:
    rows = max(1, _BLOCK_BYTES // (8 * matrix.shape[1]))
    for start in range(0, len(matrix), rows):
        yield matrix[start : start + rows].astype(np.float64)


def _largest(gradients: NDArray[Any]) -> float:
    """The largest absolute value. Raises RoboprefError where it, or its square, is not finite."""
    largest = max(float(gradients.max()), -float(gradients.min()))
    if not largest < np.sqrt(np.finfo(np.float64).max / gradients.size):
        raise RoboprefError("gradients must be finite; these hold NaN, infinities or values whose square overflows.")
    return largest


def _squared_norms(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = np.einsum("nd,nd->n", rows, rows)
    if not np.isfinite(squares).all():
        raise RoboprefError("gradients must be finite; these hold NaN, infinities or values whose square overflows.")
    return squares


def _checked_shape(gradients: NDArray[Any], k: int, dimension: int | None) -> NDArray[Any]:
    gradients = np.asanyarray(gradients)
    if gradients.ndim != 2 or gradients.shape[1] == 0 or dimension not in (None, gradients.shape[1]):
        raise RoboprefError(f"gradients must be [N, {dimension or 'd'}], got shape {gradients.shape}.")
    if not 1 <= k <= gradients.shape[1]:
        raise RoboprefError(f"k must lie in 1 to d = {gradients.shape[1]}, got {k}.")
    return gradients if gradients.dtype in (np.float32, np.float64) else gradients.astype(np.float64)


def fitting_rank(memory_limit: int, dimension: int, k: int) -> int:
    """The largest rank of ``StreamingDirections`` (256 at most) that the bytes hold.

    Raises:
        RoboprefError: they do not even hold k directions.
    """
    rank = min(_LARGEST_RANK, memory_limit // (32 * dimension))
    if rank < max(5, k):
        needed = 32 * dimension * max(5, k)
        raise RoboprefError(f"streaming {k} directions of d = {dimension} needs memory_limit >= {needed} bytes.")
    return rank
