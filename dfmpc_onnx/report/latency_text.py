"""What is printed about time: what a limit came to, and which islands of float take it."""

from __future__ import annotations

from dfmpc_onnx.evaluation.time_trials import LatencyReport


def latency_rows(found: LatencyReport) -> list[tuple[str, str]]:
    """What a limit on time came to, and what it cost, as keys and values."""
    kept = "met" if found.met else "not met"
    times = f"{found.after_ms:.2f} ms a run on this machine, of {found.limit_ms:.2f} allowed: {kept}; "
    rows = [("time", f"{times}float {found.float_ms:.2f} ms")]
    if found.closed:
        before, after = (_noise(value) for value in (found.sqnr_before, found.sqnr_after))
        cost = f"{len(found.closed)} float islands closed save {found.before_ms - found.after_ms:.2f} ms; 8-bit "
        cost += f"activations alone: SQNR {before} before, {after} after"
        if found.agreeing_before is not None:
            cost += f"; largest output the same in {found.agreeing_before} and {found.agreeing_after} of "
            cost += f"{found.images} images"
        rows.append(("for it", cost))
    return rows


def _noise(decibels: float | None) -> str:
    return "-" if decibels is None else f"{decibels:.1f} dB"
