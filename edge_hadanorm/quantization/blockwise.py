"""A sample of a denoiser's calls on their way through its blocks, of which the earlier ones are quantized already.

Each block is run on what the blocks before it make, so that the work grows linearly with their number and memory does
not grow at all.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import torch

from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.denoiser import Denoiser, State
from edge_hadanorm.quantization.calibration import Seen, observe_inputs

# What a second moment of a thousand features needs to be worth inverting.
TOKENS = 16384
# Tokens that a block is run on at once, which bounds the memory of activations.
CHUNK = 4096


class BlockwiseCalls:
    """Calls at one stage of a denoiser, see `Denoiser.stages`. `advance` takes them to the next."""

    def __init__(self, denoiser: Denoiser, calls: Sequence[Inputs]):
        batch, tokens, _ = denoiser.begin(calls[0].latents, calls[0].timestep, **calls[0].prompt)[0].shape
        size = max(1, CHUNK // (batch * tokens))
        calls = _spread(calls, size)[: -(-TOKENS // (batch * tokens))]
        states = [denoiser.begin(call.latents, call.timestep, **call.prompt) for call in calls]
        self.stage = 0
        self.states = [_joined(states[first : first + size]) for first in range(0, len(states), size)]

    def inputs(self, denoiser: Denoiser, name: str) -> Iterator[Seen]:
        """Inputs of the linear `name` of this stage, chunk by chunk."""
        for state in self.states:
            yield from self._seen(denoiser, [name], state).values()

    def sample(self, denoiser: Denoiser, names: list[str]) -> dict[str, tuple[Seen, Seen]]:
        """Inputs of each linear of this stage in some calls, and in some others."""
        states = self.states if len(self.states) > 1 else _halved(self.states[0])
        some, others = (self._seen(denoiser, names, state) for state in states[:2])
        return {name: (some[name], others[name]) for name in names}

    def advance(self, denoiser: Denoiser) -> None:
        """Run this stage and go on to the next."""
        self.states = [denoiser.advance(self.stage, state) for state in self.states]
        self.stage += 1

    def _seen(self, denoiser: Denoiser, names: list[str], state: State) -> dict[str, Seen]:
        seen: dict[str, Seen] = {}

        def observe(name: str, x: torch.Tensor, weights: torch.Tensor | None = None) -> None:
            seen[name] = (x, weights)
            if len(seen) == len(names):
                raise _AllSeen

        with observe_inputs(denoiser, names, observe), contextlib.suppress(_AllSeen):
            denoiser.advance(self.stage, state)
        return seen


class _AllSeen(Exception):
    """Nothing further down a stage is wanted."""


def _spread(calls: Sequence[Inputs], size: int) -> list[Inputs]:
    """Calls in an order of which every beginning has all timesteps in it, and chunks of `size` by turns the prompts of
    one half and of the other.
    """
    order = torch.randperm(len(calls), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(_prompt(calls[i]) for i in order))}
    halves = [[i for i in order if prompts[_prompt(calls[i])] % 2 == half] for half in range(2)]
    chunks = [[half[first : first + size] for first in range(0, len(half), size)] for half in halves]
    return [calls[i] for pair in itertools.zip_longest(*chunks, fillvalue=[]) for chunk in pair for i in chunk]


def _prompt(call: Inputs) -> int:
    return hash(tuple(tensor.cpu().numpy().tobytes() for tensor in call.prompt.values()))


def _joined(states: list[State]) -> State:
    return tuple(None if parts[0] is None else torch.cat(parts) for parts in zip(*states, strict=True))


def _halved(state: State) -> tuple[State, State]:
    """Two halves of a chunk's sequences, or the same one twice where there is one."""
    count = len(state[0])
    if count == 1:
        return state, state
    middle = count // 2
    first, second = slice(middle), slice(middle, None)
    return _part(state, first), _part(state, second)


def _part(state: State, sequences: slice) -> State:
    return tuple(None if tensor is None else tensor[sequences] for tensor in state)
