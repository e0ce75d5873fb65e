#!/usr/bin/env python3
"""Compile files for `qnn` to context binaries of Qualcomm's Hexagon NPU, without a device, in one table.

    python tools/providers/qnn.py FILE.onnx... [--soc 43,73]...

Needs onnx, onnxruntime and onnxruntime-qnn alone. Every node has to go into one EPContext: onnxruntime refuses the rest
by session.disable_cpu_ep_fallback. Where it does, the nodes that stayed outside are named, each with what QNN says of
it, and the exit status is 1. Nothing runs: the numbers of a file are those of the CPU provider.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Iterator

import onnx
import onnxruntime
import onnxruntime_qnn

NAME = onnxruntime_qnn.get_ep_name()
SOCS = ("43,73", "69,79")  # Snapdragon 8 Gen 2 and 8 Elite: soc_model and htp_arch
HEAD = "| file | MB | soc_model, htp_arch | context MB | seconds |"
# What QNN logs of nodes that it does not take: its own error, and the provider's.
OF_HTP = re.compile(r"<E> (.*?) in the node '(.*?)'")
OF_PROVIDER = re.compile(r"Validation FAILED for .*?\n((?:\s+Operator type: .*\n)+)\s+REASON : (.*)")


MOST_NAMES = 4  # in a line


class Refused(Exception):
    """Why a file is not one context."""


def options(folder: pathlib.Path, soc: str, *, fallback: bool) -> onnxruntime.SessionOptions:
    """For a session that writes a context into a folder. fallback: whether nodes may go to the CPU provider."""
    model, arch = soc.split(",")
    made = onnxruntime.SessionOptions()
    made.log_severity_level = 0 if fallback else 4  # QNN says why at its most verbose
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == NAME]
    # Else Q and DQ at the inputs and outputs would be the CPU provider's, and count as fallback.
    whole = {"offload_graph_io_quantization": "0"}
    backend = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": model, "htp_arch": arch}
    made.add_provider_for_devices(devices[:1], {**backend, **whole})
    made.add_session_config_entry("ep.context_enable", "1")
    made.add_session_config_entry("ep.context_file_path", str(folder / "context.onnx"))
    made.add_session_config_entry("session.disable_cpu_ep_fallback", "0" if fallback else "1")
    return made


def compiled(file: pathlib.Path, soc: str) -> tuple[int, float]:
    """Bytes of the one context, and the seconds that it took; raises Refused with what stayed outside."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        try:
            onnxruntime.InferenceSession(str(file), options(folder, soc, fallback=False))
        except Exception as error:
            why = str(error).splitlines()[0][:200]
            raise Refused("; ".join(by_reason(outside(file, soc))) or why) from None
        taken = time.perf_counter() - began
        nodes = [node.op_type for node in onnx.load(folder / "context.onnx").graph.node]
        if nodes != ["EPContext"]:
            raise Refused(f"the context holds {', '.join(nodes)}")
        return sum(part.stat().st_size for part in folder.iterdir()), taken


def outside(file: pathlib.Path, soc: str) -> dict[str, str]:
    """The nodes that QNN leaves to the CPU provider, each with its reason, empty where QNN logs none."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        with stderr_to(folder / "log"), contextlib.suppress(Exception):
            onnxruntime.InferenceSession(str(file), options(folder, soc, fallback=True))
        reasons = reasons_in((folder / "log").read_text(errors="replace"))
        if not (folder / "context.onnx").exists():
            return reasons
        nodes = onnx.load(folder / "context.onnx").graph.node
    left = [node for node in nodes if node.op_type not in ("EPContext", "QuantizeLinear", "DequantizeLinear")]
    return {f"{node.op_type} {node.name}": reasons.get(node.name, "") for node in left}


def by_reason(nodes: dict[str, str]) -> list[str]:
    """A line a reason, with the first of its nodes."""
    found: dict[str, list[str]] = {}
    for node, why in nodes.items():
        found.setdefault(why or "QNN gives no reason", []).append(node)
    return [
        f"{why} ({', '.join(names[:MOST_NAMES])}{f' and {len(names) - MOST_NAMES} more' * (len(names) > MOST_NAMES)})"
        for why, names in found.items()
    ]


def reasons_in(log: str) -> dict[str, str]:
    """By name of a node, why QNN does not take it."""
    found = {}
    for nodes, why in OF_PROVIDER.findall(log):
        found.update(dict.fromkeys(re.findall(r"Node name: (.*?) Node index", nodes), why))
    found.update({node: why for why, node in OF_HTP.findall(log)})
    return found


@contextlib.contextmanager
def stderr_to(path: pathlib.Path) -> Iterator[None]:
    """Within the block what the process writes to standard error, native libraries included, goes to a file."""
    before = os.dup(2)
    with path.open("wb") as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE.onnx")
    parser.add_argument("--soc", action="append", metavar="MODEL,ARCH", help=f"default: {' '.join(SOCS)}")
    args = parser.parse_args()
    onnxruntime.register_execution_provider_library(NAME, onnxruntime_qnn.get_library_path())
    failed = []
    print(f"onnxruntime {onnxruntime.__version__}, onnxruntime-qnn {onnxruntime_qnn.__version__}\n")
    print(HEAD + "\n" + "|---" * (HEAD.count("|") - 1) + "|")
    for file in args.files:
        for soc in args.soc or SOCS:
            try:
                size, seconds = compiled(file, soc)
            except Refused as reason:
                failed.append(f"{file.name} for {soc}: {reason}")
                continue
            fields = (file.stem, f"{file.stat().st_size / 1e6:.3f}", soc, f"{size / 1e6:.3f}", f"{seconds:.1f}")
            print("| " + " | ".join(fields) + " |", flush=True)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
