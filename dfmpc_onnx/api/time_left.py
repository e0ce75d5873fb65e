"""What there is time for, under a limit on the seconds of a run, once the passes are done."""

from __future__ import annotations

from dfmpc_onnx.api.reference import check_count
from dfmpc_onnx.evaluation.layer_errors import LAYER_INPUTS
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.pipeline.deadline import CHECKED
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.image_count import seconds_of_run

RUNS_OF_A_CHECK = 3  # of the float network, that comparing on one input takes
RUNS_OF_LAYERS = 6  # of it, that comparing all tensors inside on one input takes


def checked_in_time(workspace: Workspace, source: Source, *, more: bool = False) -> int | None:
    """On how many inputs there is time to compare, at least 1; None for all. more: whether something follows."""
    usual = check_count(source, workspace.inputs)
    number = _in_time(workspace, usual, RUNS_OF_A_CHECK, CHECKED if more else 1.0)
    if number == usual:
        return None
    workspace.deadline.cut(f"the closing check on {number} of {usual} inputs")
    return number


def layers_in_time(workspace: Workspace) -> int:
    """On how many inputs there is time to compare the tensors inside, at least 1."""
    number = _in_time(workspace, LAYER_INPUTS, RUNS_OF_LAYERS, 1.0)
    if number < LAYER_INPUTS:
        workspace.deadline.cut(f"layers compared on {number} of {LAYER_INPUTS} inputs")
    return number


def causes_in_time(workspace: Workspace) -> bool:
    """Whether there is time to look for causes: conversions are tried then, each as long as this one."""
    deadline = workspace.deadline
    in_time = not deadline.past(0.5)
    if not in_time:
        deadline.cut("the report does not say what causes the error")
    return in_time


def _in_time(workspace: Workspace, usual: int, runs: int, share: float) -> int:
    """Of the usual number of inputs those that there is time for until a share of the limit is gone, at least 1.

    runs: of the float network, that one of them takes.
    """
    deadline = workspace.deadline
    if not deadline.limited:
        return usual
    each, left = runs * seconds_of_run(workspace), deadline.until(share)
    if usual * each <= left:
        return usual
    return max(int(left / each), 1) if each > 0 else 1
