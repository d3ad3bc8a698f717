"""The MIL operators that a simulation knows, each as a function in torch of the operator's own argument names.

Positional arguments are tensors, or a list of them (`Tensors`); keyword-only ones are Python values that a program
holds as constants: sizes, axes, modes. Floats come in one dtype, that of the precision, and the caller rounds results.
Defaults are MIL's. See https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html.
"""

from edge_hadanorm.exporters.coreml.simulation.codes import CODES
from edge_hadanorm.exporters.coreml.simulation.elementwise import ELEMENTWISE, HELD, Operator
from edge_hadanorm.exporters.coreml.simulation.layers import LAYERS
from edge_hadanorm.exporters.coreml.simulation.tensors import TENSORS, Tensors

__all__ = ["HELD", "OPERATORS", "Operator", "Tensors"]

OPERATORS: dict[str, Operator] = ELEMENTWISE | TENSORS | LAYERS | CODES
