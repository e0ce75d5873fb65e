#!/usr/bin/env python3
"""What each rule of `vitisai` costs: files made with one rule after another lifted.

    python -m tools.experiments.one_scale_costs [--only NETWORK]... > docs/tables/one_scale_costs.md

Recipe `int8`. Prints how often each file names the class of the float network, in per cent, and SQNR in dB, on labelled
images. No runtime wants the files between: they say where the loss is.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import unittest.mock
from collections.abc import Mapping, Sequence

import msgspec

import dfmpc_onnx
from dfmpc_onnx.pipeline.target_rules import LAYER_OPERATORS
from dfmpc_onnx.pipeline.targets import TARGETS, targets
from tools.experiments.measure import Network, asked, networks

NETWORKS = ("own", "ownmobile", "mobilenetv1")
CHANNEL: dict[str, object] = {"per_channel": LAYER_OPERATORS}
BIAS: dict[str, object] = {"bias": "int32"}
FREE: dict[str, object] = {"scales": "free"}
LIFTED: dict[str, Mapping[str, object]] = {
    "none": {},
    "biases of 32 bits": BIAS,
    "any scale": FREE,
    "any scale, biases of 32 bits": FREE | BIAS,
    "a scale a channel": CHANNEL,
    "a scale a channel, biases of 32 bits": CHANNEL | BIAS,
    "a scale a channel, any scale, biases of 32 bits": CHANNEL | BIAS | FREE,
}


def cell(network: Network, target: str) -> str:
    """Agreement and SQNR of one file."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        dfmpc_onnx.quantize(str(network.model), out, "int8", target=target, preprocess=network.preprocess, check=False)
        found = dfmpc_onnx.verify(str(network.model), out, images=network.images).providers[0].fidelity
    return f"{found.agreement:.1f} ({found.sqnr_db:.1f} dB)"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(networks()), help="a network; may be repeated")
    chosen = list(asked(parser.parse_args(arguments).only or NETWORKS))
    print("| lifted | " + " | ".join(network.label for network in chosen) + " |")
    print("|---" * (len(chosen) + 1) + "|")
    made = {
        label: msgspec.structs.replace(TARGETS["vitisai"], name=f"vitisai-{index}", **dict(rules))
        for index, (label, rules) in enumerate(LIFTED.items())
    }
    with unittest.mock.patch.dict(TARGETS, {target.name: target for target in made.values()}):
        targets.cache_clear()
        for label, target in [*made.items(), ("`cpu`", TARGETS["cpu"])]:
            print(f"| {label} | " + " | ".join(cell(network, target.name) for network in chosen) + " |", flush=True)
    targets.cache_clear()


if __name__ == "__main__":
    main()
