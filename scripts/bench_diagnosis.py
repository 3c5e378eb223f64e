"""What principal directions cost on top of the gradients that they are taken of, and what that saves.

A Nature CNN with random weights and random frames (d = 4 x 84 x 84 = 28224). Printed are ratios within one run:

- total: batched gradients and their directions over the gradients alone (the aim: at most 1.5);
- dense: gradients, L = G^T G and a power iteration over the total (at least 6);
- outer: gradients and a sum of outer products, a state at a time, over the total (at least 30; a few states are
  timed and extrapolated);
- peak memory of gradients and directions, in a process of their own (at most 1.2 GB);
- streaming: seconds per state and peak memory as N grows, under a memory limit (both flat).

Random frames are a hard case: the spectrum of their gradients is flat behind the first value. Rounds alternate, and
the median over rounds counts.

    python scripts/bench_diagnosis.py [--states 2000] [--rounds 3] [--stream 10000 25000 50000] [--quick]
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import blas

from robopref.diagnosis import StreamingDirections, principal_directions, state_gradients
from robopref.diagnosis.directions import fitting_rank
from robopref.policies.q_network import QArchitecture, QNetwork

SHAPE = (4, 84, 84)
DIMENSION = 4 * 84 * 84
RANK = 24  # what the pipeline keeps for resampling
OUTER_STATES = 3
STREAM_MEMORY = 128 * 2**20


def gradients_of(n_states: int, device: str | None = None) -> NDArray[Any]:
    """Gradients [n_states, d] of a random network at random frames."""
    torch.manual_seed(0)
    network = QNetwork(QArchitecture(6, hidden=512, dueling=False)).eval()
    states = np.random.default_rng(0).integers(0, 256, (n_states, *SHAPE), dtype=np.uint8)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return state_gradients(network, states, device=device)


def dense(gradients: NDArray[Any], tolerance: float = 1e-6) -> NDArray[Any]:
    """The leading eigenvector of L by the book: the whole matrix, and a power iteration until lambda stands still."""
    matrix = gradients.T @ gradients
    vector = np.random.default_rng(0).normal(size=len(matrix)).astype(matrix.dtype)
    before = 0.0
    while True:
        image = matrix @ vector
        value = float(np.linalg.norm(image))
        vector = image / value
        if abs(value - before) <= tolerance * value:
            return vector
        before = value


def outer_seconds(gradients: NDArray[Any]) -> float:
    """Seconds for L as a sum of outer products over all states, from a few of them, each added in place by BLAS."""
    matrix = np.zeros((gradients.shape[1], gradients.shape[1]), gradients.dtype, order="F")
    matrix = blas.sger(1, gradients[0], gradients[0], a=matrix, overwrite_a=True)  # touches the pages
    start = time.perf_counter()
    for gradient in gradients[1 : 1 + OUTER_STATES]:
        matrix = blas.sger(1, gradient, gradient, a=matrix, overwrite_a=True)
    return (time.perf_counter() - start) / OUTER_STATES * len(gradients)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def peak_gigabytes(action: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Peak memory of a process of its own that does it, in GB, and the result."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_with_peak, (action, arguments))


def _with_peak(action: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, Any]:
    result = action(*arguments)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory, which the process began with
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) * 1024 / 1e9, result  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, result


def whole(n_states: int) -> None:
    """Gradients and directions."""
    principal_directions(gradients_of(n_states), 1, further=RANK - 1)


def stream(n_states: int) -> tuple[float, float]:
    """Seconds for the directions of gradients that come in batches, and the error bound over lambda_1."""
    rank = fitting_rank(STREAM_MEMORY, DIMENSION, RANK)
    streaming = StreamingDirections(DIMENSION, rank)
    seconds = 0.0
    for batch in made_up_batches(n_states):
        start = time.perf_counter()
        streaming.update(batch)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    found = streaming.result(2)
    seconds += time.perf_counter() - start
    return seconds, found.error_bound / float(found.eigenvalues[0])


def made_up_batches(n_states: int, batch: int = 64) -> Iterator[NDArray[Any]]:
    """Gradients with a decaying spectrum and noise; making them is not timed."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((20, DIMENSION), dtype=np.float32) / np.float32(np.sqrt(DIMENSION))
    strengths = (0.7 ** np.arange(20)).astype(np.float32)
    noise = 0.02 * rng.standard_normal((batch, DIMENSION), dtype=np.float32) / np.float32(np.sqrt(DIMENSION))
    for start in range(0, n_states, batch):
        size = min(batch, n_states - start)
        rows = (rng.standard_normal((size, 20), dtype=np.float32) * strengths) @ basis
        yield rows + np.roll(noise[:size], start, axis=1)


def one_round(n_states: int, *, quick: bool) -> dict[str, float]:
    """Seconds of each way."""
    seconds: dict[str, float] = {}
    seconds["gradients"], gradients = timed(lambda: gradients_of(n_states))
    seconds["directions"], found = timed(lambda: principal_directions(gradients, 1, further=RANK - 1))
    seconds["one direction"], _ = timed(lambda: principal_directions(gradients, 1))
    if not quick:
        seconds["dense"], vector = timed(lambda: dense(gradients))
        seconds["outer"] = outer_seconds(gradients)
        print(f"  the dense route finds the same direction: |cos| = {abs(found.directions[0] @ vector):.6f}")
    print("  " + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()), flush=True)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stream", type=int, nargs="*", default=[10_000, 25_000, 50_000])
    parser.add_argument("--quick", action="store_true", help="without the dense matrix, which takes 3.2 GB and minutes")
    options = parser.parse_args()
    print(f"{options.states} states, d = {DIMENSION}, {torch.get_num_threads()} torch threads, medians of rounds")

    rounds = [one_round(options.states, quick=options.quick) for _ in range(options.rounds)]

    def over(top: str, bottom: str, shared: str = "") -> float:
        """The median over rounds of (shared + top) / (shared + bottom)."""
        return statistics.median(
            (s.get(shared, 0) + s.get(top, 0)) / (s.get(shared, 0) + s.get(bottom, 0)) for s in rounds
        )

    total, single = over("directions", "", "gradients"), over("one direction", "", "gradients")
    print(f"total over gradients alone: {total:.2f} with {RANK} directions, {single:.2f} with one (aim: 1.5)")
    if not options.quick:
        for name, aim in (("dense", 6), ("outer", 30)):
            whole_way, alone = over(name, "directions", "gradients"), over(name, "directions")
            print(f"{name} over total: {whole_way:.1f} (aim: {aim}); without the gradients: {alone:.1f}")
    peak, _ = peak_gigabytes(whole, options.states)
    print(f"peak memory of gradients and directions: {peak:.2f} GB (aim: 1.2)")
    for n_states in options.stream:
        peak, (duration, bound) = peak_gigabytes(stream, n_states)
        print(
            f"streaming {n_states} states in {STREAM_MEMORY / 2**20:.0f} MB: {duration:.1f} s, "
            f"{1e3 * duration / n_states:.2f} ms a state, peak {peak:.2f} GB, error bound {bound:.2g} lambda_1",
            flush=True,
        )


if __name__ == "__main__":
    main()
