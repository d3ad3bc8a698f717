"""The operators of a MIL program as steps of a simulation: each computes values from values by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.coreml.simulation.operators import Operator
from edge_hadanorm.exporters.coreml.simulation.reader import Type


@dataclass(frozen=True)
class Precision:
    """floats: what every float is held and computed in. rounded: whether each is rounded to what is declared for it."""

    floats: torch.dtype
    rounded: bool = False

    def held(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.floats) if value.is_floating_point() else value


PRECISIONS = {
    "declared": Precision(torch.float32, rounded=True),
    "float32": Precision(torch.float32),
    "float64": Precision(torch.float64),
}


@dataclass(frozen=True)
class Step:
    """One operator of a program.

    where: its place, for messages. tensors: its arguments by the names of values. settings: its constant arguments.
    late: arguments that the function takes as Python values, by the names of tensors. outputs: names and types.
    last: values that nothing reads after it.
    """

    where: str
    function: Operator
    tensors: dict[str, str | list[str]]
    settings: dict[str, object]
    late: dict[str, str]
    outputs: list[tuple[str, Type]]
    last: tuple[str, ...] = ()

    def read(self) -> list[str]:
        """Names of the values that it needs."""
        names = [*self.late.values()]
        for given in self.tensors.values():
            names.extend([given] if isinstance(given, str) else given)
        return names

    def run(self, values: Mapping[str, Any], precision: Precision) -> dict[str, torch.Tensor]:
        """Outputs by name, of values by name: tensors, and text among the constants.

        Raises UserError where outputs cannot be computed or are not as declared.
        """
        given = {
            name: values[source] if isinstance(source, str) else [values[one] for one in source]
            for name, source in self.tensors.items()
        }
        late = {name: values[source].tolist() for name, source in self.late.items()}
        try:
            results = self.function(**given, **self.settings, **late)
        except (RuntimeError, ValueError, IndexError, KeyError, TypeError, ZeroDivisionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.where} cannot be computed: {reason}; convert the model again") from None
        results = [results] if isinstance(results, torch.Tensor) else list(results)
        if len(results) != len(self.outputs):
            raise UserError(f"{self.where} computes {len(results)} values, the program declares {len(self.outputs)}")
        return {
            name: as_declared(result, declared, precision, self.where)
            for result, (name, declared) in zip(results, self.outputs, strict=True)
        }


def as_declared(result: torch.Tensor, declared: Type, precision: Precision, where: str) -> torch.Tensor:
    """A result as its type asks for. Raises UserError where it has another shape, or is of another kind of number."""
    result = precision.held(result)
    if not declared.fits(result.shape) or result.dtype != (precision.floats if declared.floating else declared.held):
        found = f"{str(result.dtype).removeprefix('torch.')} {list(result.shape)}"
        raise UserError(f"{where} computes {found}, the program declares {declared}; convert the model again")
    return result.half().float() if precision.rounded and declared.dtype == "fp16" else result


def with_last_reads(steps: list[Step], inputs: Mapping, outputs: Mapping) -> list[Step]:
    """The steps with the values that can be dropped after each: inputs and results, for constants stay."""
    made = set(inputs) | {name for step in steps for name, _ in step.outputs}
    kept, result = set(outputs), []
    for step in reversed(steps):
        own = {name for name in [*step.read(), *(name for name, _ in step.outputs)] if name in made}
        result.append(Step(**vars(step) | {"last": tuple(sorted(own - kept))}))
        kept |= own
    return result[::-1]
