"""Quantize ONNX networks without data, and prove that the result works.

    import dfmpc_onnx

    quantized = dfmpc_onnx.quantize("model.onnx", "small.onnx", recipe="int8")
    print(quantized.report.bytes, quantized.report.fidelity)

Names are imported when they are first used, so that importing the package stays light. Nothing else is imported here,
neither `typing` nor `importlib`: the command line begins with this module, before it can answer an interrupt.
"""

TYPE_CHECKING = False  # to a type checker it is true, as that of `typing` is
if TYPE_CHECKING:
    from dfmpc_onnx.api.compare import compare as compare
    from dfmpc_onnx.api.diagnose import diagnose as diagnose
    from dfmpc_onnx.api.expand import Expanded as Expanded
    from dfmpc_onnx.api.expand import expand as expand
    from dfmpc_onnx.api.inspection import inspect as inspect
    from dfmpc_onnx.api.learn_images import LearnedImages as LearnedImages
    from dfmpc_onnx.api.learn_images import learn_images as learn_images
    from dfmpc_onnx.api.plan import Planned as Planned
    from dfmpc_onnx.api.plan import plan as plan
    from dfmpc_onnx.api.progress_bars import rich_progress as rich_progress
    from dfmpc_onnx.api.progress_bars import tqdm_progress as tqdm_progress
    from dfmpc_onnx.api.quantize import quantize as quantize
    from dfmpc_onnx.api.quantized import Quantized as Quantized
    from dfmpc_onnx.api.verify import verify as verify
    from dfmpc_onnx.api.write_report import write_report as write_report
    from dfmpc_onnx.errors import AlreadyQuantized as AlreadyQuantized
    from dfmpc_onnx.errors import CannotRun as CannotRun
    from dfmpc_onnx.errors import Defect as Defect
    from dfmpc_onnx.errors import DfmpcError as DfmpcError
    from dfmpc_onnx.errors import ModelError as ModelError
    from dfmpc_onnx.errors import NoSuchType as NoSuchType
    from dfmpc_onnx.errors import OptionError as OptionError
    from dfmpc_onnx.errors import PassError as PassError
    from dfmpc_onnx.errors import PipelineError as PipelineError
    from dfmpc_onnx.errors import RecipeError as RecipeError
    from dfmpc_onnx.errors import RuntimeUnavailable as RuntimeUnavailable
    from dfmpc_onnx.errors import RunTooLong as RunTooLong
    from dfmpc_onnx.errors import TooLittleMemory as TooLittleMemory
    from dfmpc_onnx.errors import UserError as UserError
    from dfmpc_onnx.evaluation.diagnosis.schema import Diagnosis as Diagnosis
    from dfmpc_onnx.jobs.batch import BatchResult as BatchResult
    from dfmpc_onnx.jobs.batch import batch as batch
    from dfmpc_onnx.jobs.batch import compare_batches as compare_batches
    from dfmpc_onnx.pipeline.manager import Pass as Pass
    from dfmpc_onnx.pipeline.manager import PassResult as PassResult
    from dfmpc_onnx.pipeline.recipe import Recipe as Recipe
    from dfmpc_onnx.pipeline.target_rules import RuleSource as RuleSource
    from dfmpc_onnx.pipeline.target_rules import Target as Target
    from dfmpc_onnx.pipeline.targets import targets as targets
    from dfmpc_onnx.report.batch_row import batch_columns as batch_columns
    from dfmpc_onnx.report.html.schema import Comparison as Comparison
    from dfmpc_onnx.report.schema import Inspection as Inspection
    from dfmpc_onnx.report.schema import Report as Report
    from dfmpc_onnx.report.schema import Verification as Verification

    __version__: str

_HOMES = {
    "api.compare": ("compare",),
    "api.diagnose": ("diagnose",),
    "api.expand": ("Expanded", "expand"),
    "api.inspection": ("inspect",),
    "api.learn_images": ("LearnedImages", "learn_images"),
    "api.plan": ("Planned", "plan"),
    "api.progress_bars": ("rich_progress", "tqdm_progress"),
    "api.quantize": ("quantize",),
    "api.quantized": ("Quantized",),
    "api.verify": ("verify",),
    "api.write_report": ("write_report",),
    "errors": (
        "AlreadyQuantized",
        "CannotRun",
        "Defect",
        "DfmpcError",
        "ModelError",
        "NoSuchType",
        "OptionError",
        "PassError",
        "PipelineError",
        "RecipeError",
        "RunTooLong",
        "RuntimeUnavailable",
        "TooLittleMemory",
        "UserError",
    ),
    "evaluation.diagnosis.schema": ("Diagnosis",),
    "jobs.batch": ("BatchResult", "batch", "compare_batches"),
    "pipeline.manager": ("Pass", "PassResult"),
    "pipeline.recipe": ("Recipe",),
    "pipeline.target_rules": ("RuleSource", "Target"),
    "pipeline.targets": ("targets",),
    "report.batch_row": ("batch_columns",),
    "report.html.schema": ("Comparison",),
    "report.schema": ("Inspection", "Report", "Verification"),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> object:
    import importlib
    import importlib.metadata

    if name == "__version__":
        return importlib.metadata.version("dfmpc-onnx")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
