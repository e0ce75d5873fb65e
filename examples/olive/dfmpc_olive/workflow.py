"""One command for a workflow of Olive: Olive's own passes and those of installed packages, without a list by hand.

Olive reads passes from a package configuration alone, and one that is given takes the place of its own. So this adds to
Olive's own what installed packages register under the entry points `olive.passes`, as this one does.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import entry_points
from pathlib import Path

GROUP = "olive.passes"
ANYWHERE = ("supported_providers", "supported_accelerators", "supported_precisions")


def package_config() -> dict[str, object]:
    """Olive's own package configuration with the registered passes in it, as `olive.workflows.run` takes it."""
    from olive.package_config import OlivePackageConfig

    config: dict[str, object] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text("utf-8"))
    registered = {
        entry.name: {"module_path": entry.value.replace(":", "."), **{key: ["*"] for key in ANYWHERE}}
        for entry in entry_points(group=GROUP)
    }
    return {**config, "passes": {**config["passes"], **registered}}


def main(words: list[str] | None = None) -> None:
    """Run a workflow, and print where its best model was written."""
    parser = argparse.ArgumentParser(prog="dfmpc-olive", description=main.__doc__)
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW.json", help="as `olive run --config` takes it")
    path = parser.parse_args(words).workflow

    from olive.workflows import run

    from dfmpc_onnx.errors import DfmpcError

    try:
        found = run(json.loads(path.read_text("utf-8")), package_config=package_config()).get_best_candidate()
    except (OSError, ValueError, DfmpcError) as error:
        sys.exit(f"error: {path}: {error}")
    if found is None:
        sys.exit(f"error: {path}: no pass of it wrote a model; see what Olive says above")
    print(found.model_path)
