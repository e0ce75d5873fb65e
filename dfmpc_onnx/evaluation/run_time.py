"""How long one run of a network takes, roughly: enough to say which of two is clearly slower."""

from __future__ import annotations

import time

import numpy as np

from dfmpc_onnx.evaluation.fidelity import SessionInput, first_feeds
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.runtime.session import Session

FEWEST_RUNS_TIMED, MOST_RUNS_TIMED = 3, 10
SECONDS_TIMED = 0.5  # after which no further run begins
LEAST_SECONDS = 0.001  # shorter runs are timed by the calls around them more than by kernels
LONGEST_SECONDS = 5.0  # of a run: a few of them would take longer than what they tell is worth
CLEARLY_SLOWER = 1.25  # minima of a few runs on a busy machine are good to a tenth or two


def fastest_run(session: Session, images: Images | Samples) -> float:
    """Seconds of the fastest of a few runs: of one image where the network takes any number, else of one batch.

    0 where a run takes over 5 seconds: then nothing is timed.
    """
    feeds = first_feeds(session, images)
    if isinstance(images, Images):
        given = SessionInput.of(session)
        if given.batch is None:
            feeds = {given.name: np.ascontiguousarray(images.x[:1]).astype(given.dtype, copy=False)}
    began = time.perf_counter()
    session.run(feeds)
    if time.perf_counter() - began > LONGEST_SECONDS:
        return 0.0
    seconds: list[float] = []
    while len(seconds) < FEWEST_RUNS_TIMED or (len(seconds) < MOST_RUNS_TIMED and sum(seconds) < SECONDS_TIMED):
        began = time.perf_counter()
        session.run(feeds)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def slower(plain: float, quantized: float) -> tuple[str, ...]:
    """One line where a quantized network is clearly slower than its float model; seconds of a run of each."""
    if plain < LEAST_SECONDS or quantized <= CLEARLY_SLOWER * plain:
        return ()
    return (
        f"on this processor a run takes {1000 * quantized:.1f} ms, {quantized / plain:.1f} times as long as the float "
        "model: few of its layers gain by integers; --activations none computes as the float model does",
    )
