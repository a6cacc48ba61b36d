"""Say which packages a machine lacks before it is made to work: benchmarks/gpu.sh calls this first.

python benchmarks/gpu_needs.py [--run]     --run: for whole runs with their audit, too
"""

from __future__ import annotations

import argparse
import importlib.util
import sys

BENCH = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "numpy": "numpy",
    "PIL": "pillow",
    "lightning_fabric": "lightning-fabric",
    "lightning_utilities": "lightning-utilities",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "annotated_types": "annotated-types",
    "typing_inspection": "typing-inspection",
    "yaml": "pyyaml",
    "typer": "typer",
    "rich": "rich",
    "jaxtyping": "jaxtyping",
    "safetensors": "safetensors",
    "pyarrow": "pyarrow",
    "sklearn": "scikit-learn",
    "jinja2": "jinja2",
}
"""Import name → package: what `efface bench gpu` loads."""
RUN = {
    "datasets": "datasets",
    "matplotlib": "matplotlib",
    "fairlearn": "fairlearn",
    "captum": "captum",
    "pytorch_metric_learning": "pytorch-metric-learning",
}
"""What whole runs need besides."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="store_true")
    needed = BENCH | (RUN if parser.parse_args().run else {})
    missing = [package for name, package in needed.items() if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"This machine lacks: {', '.join(missing)}.\n"
            "Where there is a network, with the same Python: pip install --no-deps --target DIR PACKAGES; "
            "take DIR along and start again with SITE=DIR.",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
