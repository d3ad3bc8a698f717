"""Commands as functions: model -> calibrate -> quantize -> checkpoint -> evaluate, and export -> bundle -> picture.

The command line is a thin layer on these, and what they take and give is the library's interface, see `edge_hadanorm`.
"""

from edge_hadanorm.workflow.benchmarking import bench
from edge_hadanorm.workflow.deploying import Generated, export, generate
from edge_hadanorm.workflow.measuring import evaluate, inspect, report
from edge_hadanorm.workflow.quantizing import (
    calibrate,
    dry_run,
    load,
    load_checkpoint,
    pick_device,
    quantize,
    save,
)

__all__ = [
    "Generated",
    "bench",
    "calibrate",
    "dry_run",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "load",
    "load_checkpoint",
    "pick_device",
    "quantize",
    "report",
    "save",
]
