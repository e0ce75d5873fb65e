"""dfmpc-onnx as a pass of Olive: quantization without data, and no result below `min_sqnr`."""

from __future__ import annotations

from pathlib import Path

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

import dfmpc_onnx


class DfmpcQuantization(Pass):
    """Quantize an ONNX model to QDQ form by closed-form compensation; see `dfmpc-onnx quantize --help`."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "recipe": PassConfigParam(
                type_=str, default_value="mixed", description="a recipe by name, or a .toml file"
            ),
            "weights": PassConfigParam(type_=str, default_value=None, description="LOW/HIGH, BITS or ternary/HIGH"),
            "activations": PassConfigParam(type_=str, default_value=None, description="4, 8, 16, auto or none"),
            "target": PassConfigParam(type_=str, default_value="cpu", description="the provider the file is for"),
            "preprocess": PassConfigParam(type_=str, default_value="auto", description="the input's normalization"),
            "images": PassConfigParam(
                type_=str, default_value=None, description="an .npz or a folder, if you have some"
            ),
            "min_sqnr": PassConfigParam(type_=float, default_value=None, description="fail below this many dB"),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        path = resolve_onnx_path(output_model_path, Path(model.model_path).name)
        least = config.min_sqnr
        fidelity = dfmpc_onnx.quantize(
            model.model_path,
            path,
            config.recipe,
            weights=config.weights,
            activations=config.activations,
            target=config.target,
            preprocess=config.preprocess,
            images=config.images,
        ).report.fidelity
        if least is not None and (fidelity is None or fidelity.not_known or fidelity.sqnr_db < least):
            reached = "is not known" if fidelity is None or fidelity.not_known else f"is {fidelity.sqnr_db} dB"
            Path(path).unlink()  # so that nothing takes it for a result
            raise ValueError(f"SQNR {reached}; at least {least} dB were asked for")
        return ONNXModelHandler(model_path=path)
