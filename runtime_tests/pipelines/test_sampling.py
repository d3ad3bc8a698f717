"""sampling.py: the loop is the formula, to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edge_hadanorm.pipelines.plans import NEGATIVE, TEXT, Plan, Row
from edge_hadanorm.pipelines.sampling import Known, sample

PLAN = Plan(
    (
        Row(900.0, 1.0, 1.0, b=(-0.3,)),
        Row(500.0, 0.5, 0.9, b=(-0.4, 0.1), c=(0.2,)),
        Row(100.0, 0.25, 1.1, b=(-0.7,), b_text=(0.0, 0.0, 0.05), b_negative=(0.0, 0.25), c=(0.0, 0.3)),
    ),
    noise_scale=2.0,
)
ONE = Plan((Row(1.0, 1.0, 0.0, b=(1.0,)),), 1.0)


def noise(number: int) -> torch.Tensor:
    return torch.randn(2, 5, generator=torch.Generator().manual_seed(number))


def predict(latents: torch.Tensor, timestep: float, conditionings: tuple[str, ...]) -> list[torch.Tensor]:
    made = {TEXT: torch.cos(3 * latents), NEGATIVE: torch.sin(latents) * (timestep / 1000)}
    return [made[name] for name in conditionings]


def test_the_loop_is_the_formula_to_the_bit():
    """One float32 rounding an operation, in this order: what a device has to do for the same latents."""
    f32, steps = np.float32, PLAN.at(1.7)
    latents, predictions = f32(PLAN.noise_scale) * noise(0).numpy(), []
    for k, step in enumerate(steps):
        given = torch.from_numpy(f32(step.input_scale) * latents)
        predictions.append([made.numpy() for made in predict(given, step.timestep, (TEXT, NEGATIVE))])
        latents = f32(step.a) * latents
        for side, coefficients in enumerate((step.text, step.negative)):
            for j, coefficient in enumerate(coefficients):
                latents = latents + f32(coefficient) * predictions[k - j][side]
        for j, coefficient in enumerate(step.noise):
            latents = latents + f32(coefficient) * noise(k + 1 - j).numpy()
    actual = sample(predict, PLAN, 1.7, noise)
    assert actual.dtype == torch.float32
    assert actual.numpy().tobytes() == latents.tobytes()


@pytest.mark.parametrize(("guidance", "expected"), [(0.0, 3.0), (1.0, 3.0), (1.5, 3.5), (7.5, 9.5)])
def test_guidance_extrapolates_from_the_negative_prompt_to_the_text(guidance, expected):
    def of_both(x: torch.Tensor, timestep: float, conditionings: tuple[str, ...]) -> list[torch.Tensor]:
        return [torch.full_like(x, {TEXT: 3.0, NEGATIVE: 2.0}[name]) for name in conditionings]

    assert sample(of_both, ONE, guidance, lambda _: torch.zeros(1, 2)).tolist() == [[expected, expected]]


def test_predictions_of_another_precision_are_combined_in_float32():
    text, negative = noise(0).half(), noise(1).half()
    made = {TEXT: text, NEGATIVE: negative}
    result = sample(lambda x, t, names: [made[name] for name in names], ONE, 4.5, lambda _: torch.zeros(2, 5))
    torch.testing.assert_close(result, negative.float() + 4.5 * (text.float() - negative.float()), rtol=0, atol=2e-6)
    assert result.dtype == torch.float32


def test_only_what_is_used_is_predicted_and_each_noise_only_when_it_is_added():
    asked: list[object] = []

    def recorded(x: torch.Tensor, timestep: float, conditionings: tuple[str, ...]) -> list[torch.Tensor]:
        asked.append((timestep, *conditionings))
        return [x for _ in conditionings]

    def drawn(number: int) -> torch.Tensor:
        asked.append(number)
        return noise(number)

    sample(recorded, PLAN, 1.0, drawn)
    assert asked == [0, (900.0, TEXT), (500.0, TEXT, NEGATIVE), 2, (100.0, TEXT), 2]


@pytest.mark.parametrize("masked", [False, True])
def test_a_known_picture_begins_the_loop_and_is_kept_under_its_mask_to_the_bit(masked):
    f32, scales = np.float32, [(0.1, 0.9), (0.4, 0.6), (0.7, 0.2), (1.0, 0.0)]
    rows = tuple(replace(row, known=known) for row, known in zip(PLAN.rows, scales, strict=False))
    latents, mask = 3 * noise(9), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    noised = [f32(s) * latents.numpy() + f32(r) * noise(0).numpy() for s, r in scales]
    seen: list[torch.Tensor] = []
    plan, known = replace(PLAN, rows=rows), Known(latents, mask if masked else None)
    result = sample(predict, plan, 1.7, noise, lambda k, x: seen.append(x), known)
    begun = f32(plan.rows[0].input_scale) * noised[0]
    x = noised[0]
    for step, made, after in zip(plan.at(1.7)[:1], seen, noised[1:], strict=False):  # the others are as without it
        text, negative = predict(torch.from_numpy(begun), step.timestep, (TEXT, NEGATIVE))
        x = f32(step.a) * x + f32(step.text[0]) * text.numpy() + f32(step.negative[0]) * negative.numpy()
        x = (1 - mask.numpy()) * after + mask.numpy() * x if masked else x
        assert made.numpy().tobytes() == x.tobytes()
    for x, after in zip(seen, noised[1:], strict=True):
        kept = torch.equal(x[:, mask == 0], torch.from_numpy(after)[:, mask == 0])
        assert kept == masked
    assert not masked or torch.equal(result[:, mask == 0], latents[:, mask == 0])


def test_a_plan_that_does_not_say_how_noisy_latents_are_takes_no_picture():
    with pytest.raises(ValueError, match="no picture can begin it"):
        sample(predict, PLAN, 1.0, noise, known=Known(noise(9)))
    rows = (replace(PLAN.rows[0], known=(0.0, 1.0)), *PLAN.rows[1:])
    begun = replace(PLAN, rows=rows)
    sample(predict, begun, 1.0, noise, known=Known(noise(9)))
    with pytest.raises(ValueError, match="no picture can begin it"):
        sample(predict, begun, 1.0, noise, known=Known(noise(9), torch.ones(5)))


def test_progress_is_reported_after_every_step():
    seen = []
    result = sample(predict, PLAN, 2.0, noise, lambda k, latents: seen.append((k, latents)))
    assert [k for k, _ in seen] == [0, 1, 2]
    assert torch.equal(seen[-1][1], result)


def test_a_prediction_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"prediction of shape \(1, 8\) for latents \(2, 5\)"):
        sample(lambda x, t, names: [torch.zeros(1, 8)], PLAN, 1, noise)
