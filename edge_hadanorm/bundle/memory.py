"""The memory that a picture needs, by its bundle's manifest: a phone that has less says so before the first step."""

import math
from dataclasses import dataclass

from edge_hadanorm.bundle.manifest import program_bytes
from edge_hadanorm.bundle.schema import DECODER, IMAGE_ENCODER, METHODS, SMALL

# A runtime with its threads, and what it keeps of each program besides the weights: a share of the file's bytes.
RUNTIME, SHARE = 16_000_000, 20
WIDTHS = {"int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}  # the others have a byte


@dataclass(frozen=True)
class Memory:
    """Bytes of private memory. weights: a program's, which are none of it where they lie packed in a file."""

    weights: int
    working: int

    def total(self, packed_in_file: bool = False) -> int:
        """Bytes with the weights in memory, or in a file."""
        return self.working + (0 if packed_in_file else self.weights)


def memory_of(manifest: dict) -> dict[tuple[str, str], Memory]:
    """Memory while a method runs, by role and name, programs being loaded one after the other.

    It is that of the runtime, the program's weights, the method's activations, and twice what it is given and gives:
    for the prompt and the negative one. Of 28 blocks and of one, at 512 and 1024 pixels, it was within 4 % of what the
    runner needs with packed weights in a file. Empty where the system plans activations.
    """
    found = {}
    for role, program in manifest["programs"].items():
        weights = program_bytes(manifest, role)
        for name, method in program["methods"].items():
            if role in METHODS and name not in (*METHODS[role], SMALL):
                continue  # of another size
            if method["activations"] is None:
                return {}
            tensors = sum(map(_bytes, (*method["inputs"], *method["outputs"])))
            found[role, name] = Memory(weights, RUNTIME + weights // SHARE + method["activations"] + 2 * tensors)
    return found


def peak_memory(manifest: dict, packed_in_file: bool = False) -> int | None:
    """The least memory that a picture can be drawn with; None: unknown.

    Tiles are decoded by the smaller method, and it begins with no other picture.
    """
    needs = {key: need for key, need in memory_of(manifest).items() if key[0] != IMAGE_ENCODER}
    if (DECODER, SMALL) in needs:
        del needs[DECODER, "decode"]
    return max((need.total(packed_in_file) for need in needs.values()), default=None)


def _bytes(tensor: dict) -> int:
    return WIDTHS.get(tensor["dtype"], 1) * math.prod(tensor["shape"])
