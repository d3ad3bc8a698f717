"""blockwise.py: calls that go block by block are those of the whole denoiser, with padding and quantized blocks too."""

import dataclasses

import pytest
import torch

from edge_hadanorm.method.fold import shared_copy
from edge_hadanorm.method.recipe import named
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.pipelines.trajectories import Trajectories
from edge_hadanorm.quantization import blockwise as streaming
from edge_hadanorm.quantization.blockwise import BlockwiseCalls
from edge_hadanorm.quantization.calibration import observe_inputs, tokens
from edge_hadanorm.quantization.quantize import quantize
from runtime_tests.support.helpers import prompt_of, randn

WORDS, TOKENS = 6, 16  # of a text and of the tiny model's latents


def make_calls(denoiser, count: int, batch: int = 2, masked: bool = False) -> list[Inputs]:
    """Calls at timesteps of their own; masks keep from one word to all of them."""
    calls = []
    for seed in range(count):
        latents = randn(batch, *denoiser.latent_shape(), seed=seed, dtype=torch.float32)
        text = randn(batch, WORDS, denoiser.text_width, seed=seed + 100, dtype=torch.float32)
        kept = (torch.arange(batch)[:, None] + seed) % WORDS
        mask = (torch.arange(WORDS) <= kept).float() if masked else None
        calls.append(Inputs(latents, torch.tensor([990.0 - 90 * seed]), prompt_of(text, mask)))
    return calls


@pytest.fixture(params=[False, True], ids=["no mask", "mask"])
def calls(model, request):
    return make_calls(model.denoiser, 10, masked=request.param)


def begun(denoiser, call: Inputs):
    return denoiser.begin(call.latents, call.timestep, **call.prompt)


def seen_by(denoiser, calls: list[Inputs]) -> dict[str, list[tuple]]:
    """What every linear is given in plain runs, call by call."""
    seen = {name: [] for name in denoiser.quantizable()}
    with observe_inputs(denoiser, seen, lambda name, x, weights=None: seen[name].append((x, weights))):
        for call in calls:
            call.run(denoiser)
    return seen


def spread(calls: list[Inputs]) -> list[Inputs]:
    """In the order of `BlockwiseCalls`."""
    return streaming._spread(calls, max(1, streaming.CHUNK // (len(calls[0].latents) * TOKENS)))


def joined(parts) -> torch.Tensor | None:
    parts = list(parts)
    return None if parts[0] is None else torch.cat(parts)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def assert_seen(blockwise: BlockwiseCalls, denoiser, calls: list[Inputs]) -> None:
    """The stage is given what the whole denoiser gives it."""
    seen = seen_by(denoiser, calls)
    for name in denoiser.stages()[blockwise.stage]:
        found = list(blockwise.inputs(denoiser, name))
        assert_close(joined(x for x, _ in found), joined(x for x, _ in seen[name]))
        weights = joined(weights for _, weights in found)
        expected = joined(weights for _, weights in seen[name])
        assert (
            (weights is None) == (expected is None) == (not name.endswith("attn2.kv") or "mask" not in calls[0].prompt)
        )
        assert weights is None or torch.equal(weights, expected)


@torch.no_grad()
def test_begin_and_advance_are_the_blocks_of_the_denoiser(model, calls):
    denoiser, last = model.denoiser, []
    handle = denoiser.blocks[-1].register_forward_hook(lambda module, arguments, output: last.append(output))
    for call in calls:
        expected = (call.run(denoiser), last[-1])[1]
        state = denoiser.begin(call.latents, call.timestep, **call.prompt)
        for stage in range(len(denoiser.stages())):
            state = denoiser.advance(stage, state)
        assert_close(state[0], expected)
        assert state[3] is call.prompt.get("mask")
    handle.remove()


def test_stages_are_the_linears_of_a_block_in_order_of_execution(model):
    denoiser, order = model.denoiser, []
    assert [name for stage in denoiser.stages() for name in stage] == denoiser.quantizable()
    state = begun(denoiser, make_calls(denoiser, 1)[0])
    with torch.no_grad(), observe_inputs(denoiser, denoiser.quantizable(), lambda name, *_: order.append(name)):
        for stage in range(len(denoiser.stages())):
            state = denoiser.advance(stage, state)
    assert [sorted(order[i : i + 7]) for i in (0, 7)] == [sorted(stage) for stage in denoiser.stages()]
    # What folds writes into a linear of the same block.
    for name, producer in denoiser.producers().items():
        target = getattr(producer, "linear", f"{getattr(producer, 'block', '')}.")
        assert name.split(".")[:2] == target.split(".")[:2]


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 3 * 2 * TOKENS, 10**6])
def test_a_stage_is_given_what_the_denoiser_gives_it(model, calls, chunk, monkeypatch):
    """However many sequences go at once, each at a timestep of its own."""
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    blockwise = BlockwiseCalls(model.denoiser, calls)
    for stage in range(2):
        assert blockwise.stage == stage
        assert_seen(blockwise, model.denoiser, spread(calls))
        blockwise.advance(model.denoiser)


@torch.no_grad()
def test_later_stages_are_given_what_quantized_blocks_make(model, calls):
    denoiser, rough = shared_copy(model.denoiser), quantize(model.denoiser, named("rtn-w2a4"), None)
    blockwise = BlockwiseCalls(denoiser, calls)
    before = [x for x, _ in blockwise.inputs(denoiser, "blocks.0.attn2.q")]
    denoiser.set_submodule("blocks.0.attn1.qkv", rough.get_submodule("blocks.0.attn1.qkv"))
    assert_seen(blockwise, denoiser, spread(calls))  # within a stage too
    after = [x for x, _ in blockwise.inputs(denoiser, "blocks.0.attn2.q")]
    assert not torch.allclose(torch.cat(after), torch.cat(before), rtol=0.01)
    blockwise.advance(denoiser)
    assert_seen(blockwise, denoiser, spread(calls))


@torch.no_grad()
def test_recorded_trajectories_are_calls(model):
    trajectories = Trajectories(model.pipeline, ["red a", "green b"], 3, model.pipeline.guidance, seed=0)
    calls = trajectories.record(model.denoiser)
    assert_seen(BlockwiseCalls(model.denoiser, calls), model.denoiser, spread(calls))


# Some and others.


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_chunks_by_turns_have_other_prompts(model, size):
    texts = [call.prompt["text"] for call in make_calls(model.denoiser, 4)]
    calls = [
        dataclasses.replace(call, prompt=prompt_of(texts[i % 4].clone()))
        for i, call in enumerate(make_calls(model.denoiser, 12))
    ]
    order = streaming._spread(calls, size)
    assert sorted(map(id, order)) == sorted(map(id, calls))
    size = min(size, len(calls) // 2)
    chunks = [
        {tuple(call.prompt["text"].flatten().tolist()) for call in order[first : first + size]}
        for first in range(0, 2 * size, size)
    ]
    assert not chunks[0] & chunks[1]
    assert len(chunks[0] | chunks[1]) == min(2 * size, 4)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_calls_of_one_prompt_are_all_taken(model, count):
    calls = make_calls(model.denoiser, count)
    calls = [dataclasses.replace(call, prompt=calls[0].prompt) for call in calls]
    assert sorted(map(id, streaming._spread(calls, 2))) == sorted(map(id, calls))


def test_a_sample_is_of_some_calls_and_of_others(model, calls, monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK", 2 * 2 * TOKENS)
    denoiser, order = model.denoiser, spread(calls)
    blockwise, names = BlockwiseCalls(denoiser, calls), denoiser.stages()[0]
    sample = blockwise.sample(denoiser, names)
    assert list(sample) == names
    for half, own in ((0, order[:2]), (1, order[2:4])):
        seen = seen_by(denoiser, own)
        for name in names:
            assert_close(sample[name][half][0], joined(x for x, _ in seen[name]))
            weights, expected = sample[name][half][1], joined(weights for _, weights in seen[name])
            assert (weights is None and expected is None) or torch.equal(weights, expected)


@pytest.mark.parametrize(("count", "batch", "sizes"), [(4, 2, (4, 4)), (3, 1, (1, 2)), (1, 2, (1, 1)), (1, 1, (1, 1))])
@pytest.mark.parametrize("masked", [False, True])
def test_few_calls_are_halved_by_sequence_and_one_is_taken_twice(model, count, batch, sizes, masked):
    calls = make_calls(model.denoiser, count, batch, masked)
    names = ["blocks.0.attn1.qkv", "blocks.0.attn2.kv"]
    sample = BlockwiseCalls(model.denoiser, calls).sample(model.denoiser, names)
    seen = seen_by(model.denoiser, spread(calls))
    for name in names:
        (some, kept), (others, other_kept) = sample[name]
        assert (len(some), len(others)) == sizes
        whole = joined(x for x, _ in seen[name])
        if count * batch == 1:
            assert torch.equal(some, others)
            whole = whole.repeat(2, 1, 1)
        assert_close(torch.cat([some, others]), whole)
        assert (kept is None) == (other_kept is None) == (not (masked and name.endswith(".kv")))


def test_a_sample_of_a_part_of_the_linears_is_that_of_them(model, calls):
    blockwise, names = BlockwiseCalls(model.denoiser, calls), model.denoiser.stages()[0]
    whole = blockwise.sample(model.denoiser, names)
    for name in names:
        for part, expected in zip(blockwise.sample(model.denoiser, [name])[name], whole[name], strict=True):
            assert torch.equal(part[0], expected[0])


# Its size and order.


def test_the_order_is_a_fixed_one_of_all_calls(model, calls):
    first, second = (BlockwiseCalls(model.denoiser, calls) for _ in "ab")
    for a, b in zip(first.states, second.states, strict=True):
        assert all((s is None and t is None) or torch.equal(s, t) for s, t in zip(a, b, strict=True))
    started = [begun(model.denoiser, call)[0] for call in spread(calls)]
    assert_close(torch.cat([state[0] for state in first.states]), torch.cat(started))
    assert [call.timestep.item() for call in spread(calls)] != [call.timestep.item() for call in calls]


@pytest.mark.parametrize("limit", [1, 2 * TOKENS, 2 * TOKENS + 1, 7 * 2 * TOKENS, 10**6])
@pytest.mark.parametrize("chunk", [1, 2 * TOKENS, 5 * TOKENS, 3 * 2 * TOKENS, 10**6])
def test_tokens_and_chunks_are_bounded(model, calls, limit, chunk, monkeypatch):
    """By whole calls: the least number that has so many tokens, as many at once as fit, one at least."""
    monkeypatch.setattr(streaming, "TOKENS", limit)
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    sizes = [len(state[0]) * state[0].shape[1] for state in BlockwiseCalls(model.denoiser, calls).states]
    assert sum(sizes) == min(len(calls), -(-limit // (2 * TOKENS))) * 2 * TOKENS
    assert all(size <= max(chunk, 2 * TOKENS) for size in sizes)
    assert all(size + 2 * TOKENS > chunk for size in sizes[:-1])


def test_the_denoiser_stays_as_it_was(model, calls):
    before = calls[0].run(model.denoiser)
    blockwise = BlockwiseCalls(model.denoiser, calls)
    blockwise.sample(model.denoiser, model.denoiser.stages()[0])
    blockwise.advance(model.denoiser)
    assert torch.equal(calls[0].run(model.denoiser), before)
    assert not any(module._forward_pre_hooks for module in model.denoiser.modules())


def test_tokens_are_those_that_are_no_padding():
    y, weights = randn(2, 3, 4), torch.tensor([[1.0, 0, 0.5], [0, 0, 1]])
    assert torch.equal(tokens(y, None), y.reshape(6, 4))
    assert torch.equal(tokens(y, weights), torch.stack([y[0, 0], y[0, 2], y[1, 2]]))
