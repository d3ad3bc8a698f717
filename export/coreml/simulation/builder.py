"""Builder of steps from the operators in a package: finds arguments, reads constants, checks types."""

import inspect
from collections.abc import Sequence
from functools import cache

import torch
from coremltools.proto import MIL_pb2

from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.coreml.simulation.operators import OPERATORS, Operator, Tensors
from edge_hadanorm.exporters.coreml.simulation.reader import Constant, Package, Type, type_of
from edge_hadanorm.exporters.coreml.simulation.steps import Precision, Step

# Operators that are computed once, when a program is loaded.
STORED = "constexpr_"


class Builder:
    """The operators of a function, read one after the other.

    types: of all values so far. constants: those that are known before any input is.
    """

    def __init__(self, package: Package, where: str, precision: Precision):
        self.package, self.where, self.precision = package, where, precision
        self.types: dict[str, Type] = {}
        self.constants: dict[str, Constant] = {}
        self.steps: list[Step] = []

    def declare(self, value: MIL_pb2.NamedValueType) -> tuple[str, Type]:
        try:
            self.types[value.name] = type_of(value.type)
        except ValueError as error:
            raise UserError(f"{self.where}: {value.name!r}: {error}; it cannot be simulated") from None
        return value.name, self.types[value.name]

    def place(self, operation: MIL_pb2.Operation) -> str:
        named = operation.attributes["name"].immediateValue.tensor.strings.values if operation.attributes else ()
        label = next(iter(named), operation.outputs[0].name if operation.outputs else "?")
        return f"{self.where}, operator {label!r} ({operation.type})"

    def check_known(self, operations: Sequence[MIL_pb2.Operation]) -> None:
        for operation in operations:
            if operation.type != "const" and operation.type not in OPERATORS:
                raise UserError(f"{self.place(operation)} is not known to the simulation; run the package on a Mac")

    def add(self, operation: MIL_pb2.Operation) -> None:
        """Raises UserError for an operator without sense: unknown or missing arguments, types that do not follow."""
        where = self.place(operation)
        try:
            if operation.type == "const":
                (name, declared), value = self.declare(operation.outputs[0]), operation.attributes["val"]
                if (kind := type_of(value.type)) != declared:
                    raise ValueError(f"its value is {kind}, the program declares {declared}")
                self.constants[name] = self._held(self.package.value(value))
            elif operation.type.startswith(STORED):
                self._compute(where, operation)
            else:
                self.steps.append(self._step(where, operation))
        except UserError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{where} makes no sense: {error}; convert the model again") from None

    def _compute(self, where: str, operation: MIL_pb2.Operation) -> None:
        """A constant of codes, once for all functions that store the same; its codes are forgotten."""
        content = MIL_pb2.Operation(type=operation.type, inputs=operation.inputs, attributes=operation.attributes)
        content.attributes.pop("name", None)
        names = [one.name for argument in operation.inputs.values() for one in argument.arguments if one.name]
        output, kind = self.declare(operation.outputs[0])
        key = (self.where if names else "", content.SerializeToString(deterministic=True), kind)
        if (found := self.package.computed.get(key)) is None:
            known = set(self.constants)
            step = self._step(where, operation)
            found = self.package.computed[key] = step.run(self.constants, self.precision)[output]
            for name in set(self.constants) - known:
                del self.constants[name]
        self.constants[output] = found

    def _step(self, where: str, operation: MIL_pb2.Operation) -> Step:
        function = OPERATORS[operation.type]
        parameters = signature(function).parameters
        tensors: dict[str, str | list[str]] = {}
        settings: dict[str, object] = {}
        late: dict[str, str] = {}
        for name, sources in self._arguments(operation).items():
            if name not in parameters:
                raise ValueError(f"an argument {name!r} is not known")
            parameter = parameters[name]
            if parameter.annotation == Tensors:
                tensors[name] = sources
            elif parameter.kind is not parameter.KEYWORD_ONLY:
                (tensors[name],) = sources
            elif sources[0] in self.constants:
                settings[name] = _plain(self.constants[sources[0]])
            else:
                (late[name],) = sources
        signature(function).bind(**tensors, **settings, **late)
        outputs = [self.declare(output) for output in operation.outputs]
        step = Step(where, function, tensors, settings, late, outputs)
        self._check_floats(step)
        return step

    def _arguments(self, operation: MIL_pb2.Operation) -> dict[str, list[str]]:
        """Arguments as names of values; those that are written in the operator itself get a name of their own."""
        arguments = {
            name: [self._named(f"{operation.outputs[0].name}.{name}.{i}", one) for i, one in enumerate(own.arguments)]
            for name, own in operation.inputs.items()
        }
        for name, value in operation.attributes.items():
            if name != "name":
                binding = MIL_pb2.Argument.Binding(value=value)
                arguments[name] = [self._named(f"{operation.outputs[0].name}.{name}", binding)]
        return arguments

    def _named(self, own: str, binding: MIL_pb2.Argument.Binding) -> str:
        if binding.WhichOneof("binding") == "name":
            if binding.name not in self.types:
                raise ValueError(f"nothing before it computes {binding.name!r}")
            return binding.name
        self.types[own] = type_of(binding.value.type)
        self.constants[own] = self._held(self.package.value(binding.value, keep=False))
        return own

    def _held(self, constant: Constant) -> Constant:
        return self.precision.held(constant) if isinstance(constant, torch.Tensor) else constant

    def _check_floats(self, step: Step) -> None:
        """Floats have the dtype of the first float that they are computed from, or the one that a cast names.

        Values are all held in one dtype, so that this shows in the declared types alone.
        """
        named = step.settings.get("dtype", step.settings.get("output_dtype"))
        order = [name for name in signature(step.function).parameters if name in step.tensors]
        sources = [step.tensors[name] for name in order]
        given = [self.types[one] for own in sources for one in ([own] if isinstance(own, str) else own)]
        expected = next((kind.dtype for kind in given if kind.floating), None) if named is None else named
        for name, declared in step.outputs:
            if declared.floating and expected not in (None, declared.dtype):
                raise ValueError(f"its output {name!r} is declared {declared}, and computed in {expected}")


def _plain(value: Constant) -> object:
    return value.tolist() if isinstance(value, torch.Tensor) else value


@cache
def signature(function: Operator) -> inspect.Signature:
    return inspect.signature(function)
