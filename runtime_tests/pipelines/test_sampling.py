"""sampling.py: tables follow the stock diffusers schedulers, what has none is refused, and the loop is the formula."""

import copy
import itertools
import json
import logging
import warnings

import diffusers
import numpy as np
import pytest
import torch

from edge_hadanorm.pipelines.sampling import SamplerTable, probe, sample

DPM = diffusers.DPMSolverMultistepScheduler
DDIM = diffusers.DDIMScheduler
EULER = diffusers.EulerDiscreteScheduler
FLOW = diffusers.FlowMatchEulerDiscreteScheduler

SCHEDULERS = {
    "flow-euler": lambda: FLOW(shift=3.0),
    "euler": EULER,
    "euler-karras": lambda: EULER(use_karras_sigmas=True, timestep_spacing="leading", steps_offset=1),
    "euler-v": lambda: EULER(prediction_type="v_prediction"),
    "dpm-flow": lambda: DPM(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.5),
    "dpm-epsilon": DPM,
    "dpm-heun-karras": lambda: DPM(solver_type="heun", use_karras_sigmas=True),
    "dpm-third-order": lambda: DPM(solver_order=3),
    "dpm-v": lambda: DPM(prediction_type="v_prediction"),
    "ddim-epsilon": lambda: DDIM(clip_sample=False),
    "ddim-v": lambda: DDIM(clip_sample=False, prediction_type="v_prediction", timestep_spacing="trailing"),
    "unipc-flow": lambda: diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
}

REFUSED = {
    "ddpm": (lambda: diffusers.DDPMScheduler(clip_sample=False), "not deterministic"),
    "euler-ancestral": (diffusers.EulerAncestralDiscreteScheduler, "not deterministic"),
    "lcm": (diffusers.LCMScheduler, "not deterministic"),
    "sde-dpm": (lambda: DPM(algorithm_type="sde-dpmsolver++"), "not deterministic"),
    "flow-stochastic": (lambda: FLOW(stochastic_sampling=True), "not deterministic"),
    "ddim-clipped": (DDIM, "clip_sample"),
    "dpm-thresholding": (lambda: DPM(thresholding=True), "thresholding"),
    "nonlinear": (lambda: SaturatingScheduler(), "not linear"),
    "learned-variance": (lambda: DPM(variance_type="learned_range"), "no sampler table"),
    "dynamic-shift-without-mu": (lambda: FLOW(use_dynamic_shifting=True), "mu"),
    "ddim-zero-snr": (
        lambda: DDIM(clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        "finite",
    ),
}


class SaturatingScheduler(FLOW):
    """Linear near zero, as a basis vector sees it, and only there."""

    def step(self, model_output, timestep, sample, **kwargs):
        return (super().step(model_output, timestep, sample, return_dict=False)[0].clamp(-5, 5),)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run_scheduler(scheduler, steps: int, noise: torch.Tensor, predictions: torch.Tensor, **schedule) -> list[tuple]:
    """What a diffusers pipeline does: (timestep, model input, latents) of every step."""
    scheduler.set_timesteps(**({"num_inference_steps": steps} | schedule))
    latents, trace = noise * getattr(scheduler, "init_noise_sigma", 1.0), []
    for timestep, prediction in zip(scheduler.timesteps, predictions, strict=True):
        scaled = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        latents = scheduler.step(prediction, timestep, latents).prev_sample
        trace.append((float(timestep), scaled, latents))
    return trace


def run_table(table: SamplerTable, noise: torch.Tensor, predictions: torch.Tensor) -> list[tuple]:
    inputs, outputs, remaining = [], [], iter(predictions)

    def predict(latents, timestep):
        inputs.append((timestep, latents))
        return None, next(remaining)

    result = sample(predict, table, noise, 1.0, lambda k, latents: outputs.append(latents))
    assert torch.equal(result, outputs[-1])
    return [(timestep, scaled, latents) for (timestep, scaled), latents in zip(inputs, outputs, strict=True)]


def assert_follows(table: SamplerTable, scheduler, steps: int, error: float = 1e-5, **schedule) -> None:
    noise, predictions = randn(2, 3, 8, 8), randn(steps, 2, 3, 8, 8, seed=1)
    expected = run_scheduler(scheduler, steps, noise, predictions, **schedule)
    for actual, (timestep, scaled, latents) in zip(run_table(table, noise, predictions), expected, strict=True):
        assert actual[0] == timestep
        assert (actual[1] - scaled).abs().max() <= error * scaled.abs().max()
        assert (actual[2] - latents).abs().max() <= error * latents.abs().max()


def example_table(**changes) -> SamplerTable:
    table = dict(
        steps=3, timesteps=[900.0, 500.0, 100.0], input_scale=[1.0, 0.5, 0.25], a=[1.0, 0.9, 1.1], noise_scale=2.0
    )
    return SamplerTable(**(table | {"b": [[-0.3], [-0.4, 0.1], [-0.7, 0.2, 0.05]]} | changes))


@pytest.mark.parametrize("steps", [1, 4, 8, 20])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_table_follows_its_scheduler(name, steps):
    table = probe(SCHEDULERS[name](), steps)
    assert table.steps == steps
    assert_follows(table, SCHEDULERS[name](), steps)


@pytest.mark.parametrize("name", ["flow-euler", "euler", "euler-v", "ddim-epsilon", "ddim-v"])
def test_single_step_schedulers_need_no_history(name):
    assert [len(row) for row in probe(SCHEDULERS[name](), 8).b] == [1] * 8


def test_flow_euler_coefficients_are_the_steps_of_sigma():
    scheduler = FLOW(shift=3.0)
    table = probe(scheduler, 8)
    scheduler.set_timesteps(8)
    assert table.a == [1.0] * 8
    assert [row[0] for row in table.b] == scheduler.sigmas.diff().tolist()


def test_ddim_coefficients_are_equation_12_of_its_paper():
    scheduler = DDIM(clip_sample=False)
    table = probe(scheduler, 4)
    alphas = [scheduler.alphas_cumprod[int(t)].item() for t in table.timesteps] + [scheduler.final_alpha_cumprod.item()]
    for k, (now, after) in enumerate(itertools.pairwise(alphas)):
        scale = (after / now) ** 0.5
        assert table.a[k] == pytest.approx(scale, rel=1e-5)
        assert table.b[k][0] == pytest.approx((1 - after) ** 0.5 - scale * (1 - now) ** 0.5, rel=1e-4)


def test_a_multistep_memory_is_cut_where_it_no_longer_matters():
    table = probe(SCHEDULERS["dpm-flow"](), 50)
    assert max(map(len, table.b)) < 15
    assert_follows(table, SCHEDULERS["dpm-flow"](), 50)


def test_schedulers_of_two_calls_a_step_become_tables_of_calls():
    heun = diffusers.HeunDiscreteScheduler()
    table = probe(heun, 4)
    assert table.steps == 7
    noise, predictions = randn(1, 4, 4, 4), randn(7, 1, 4, 4, 4, seed=1)
    expected = run_scheduler(heun, 4, noise, predictions)[-1][2]
    torch.testing.assert_close(run_table(table, noise, predictions)[-1][2], expected, rtol=1e-4, atol=1e-4)


def test_the_schedule_of_the_pipeline_is_followed():
    dynamic = FLOW(use_dynamic_shifting=True)
    assert_follows(probe(dynamic, 4, mu=1.15), dynamic, 4, mu=1.15)
    sigmas = np.linspace(1, 0.25, 4).tolist()
    table = probe(dynamic, 4, sigmas=sigmas, mu=0.8)
    assert_follows(table, dynamic, 4, sigmas=sigmas, mu=0.8)
    assert table.timesteps[0] == 1000
    with pytest.raises(ValueError, match="for 4 steps, not 5"):
        probe(dynamic, 5, sigmas=sigmas, mu=0.8)


def test_a_shift_set_outside_the_config_is_followed():
    scheduler = FLOW()
    scheduler.set_shift(3.0)
    assert_follows(probe(scheduler, 4), scheduler, 4)
    assert probe(scheduler, 4) != probe(FLOW(), 4)


def test_the_scheduler_and_the_random_state_are_left_alone():
    scheduler = SCHEDULERS["dpm-flow"]()
    scheduler.set_timesteps(5)
    scheduler.step(randn(1, 3, 4, 4), scheduler.timesteps[0], randn(1, 3, 4, 4))
    before, random_state = copy.deepcopy(vars(scheduler)), torch.get_rng_state()
    probe(scheduler, 8)
    with pytest.raises(ValueError, match="deterministic"):
        probe(REFUSED["lcm"][0](), 4)
    torch.testing.assert_close(vars(scheduler).pop("sigmas"), before.pop("sigmas"))
    for name, value in before.items():
        now = getattr(scheduler, name)
        assert torch.equal(now, value) if isinstance(value, torch.Tensor) else str(now) == str(value), name
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: EULER.from_config(DDIM().config),  # keeps clip_sample, which Euler does not read
        lambda: DPM(algorithm_type="dpmsolver", final_sigmas_type="sigma_min"),  # deprecated
        lambda: diffusers.DPMSolverSinglestepScheduler(lower_order_final=False),  # says that it corrects its config
    ],
)
def test_probing_is_silent(scheduler):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = scheduler()
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            probe(stock, 5)
    finally:
        logger.removeHandler(handler)
    assert records == []
    assert logger.level == level


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_table_is_refused_in_one_line(name):
    make, reason = REFUSED[name]
    scheduler = make()
    with pytest.raises(ValueError, match=rf"^{type(scheduler).__name__}\b.*{reason}.*$") as error:
        probe(scheduler, 4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_steps_are_refused(steps):
    with pytest.raises(ValueError, match=r"^DDIMScheduler\b"):
        probe(SCHEDULERS["ddim-epsilon"](), steps)


@pytest.mark.parametrize("name", ["dpm-flow", "euler-karras"])
def test_json_round_trip_is_exact(name):
    table = probe(SCHEDULERS[name](), 8)
    assert SamplerTable.from_json(json.loads(json.dumps(table.to_json(), allow_nan=False))) == table


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 2},
        {"steps": 0, "timesteps": [], "input_scale": [], "a": [], "b": []},
        {"steps": 3.0},
        {"steps": True},
        {"timesteps": [1.0, 2.0]},
        {"timesteps": "abc"},
        {"input_scale": None},
        {"a": [1.0, float("nan"), 1.0]},
        {"a": [1.0, 1e39, 1.0]},
        {"a": [1, 10**400, 1]},
        {"a": [1.0, "1", 1.0]},
        {"a": [1.0, True, 1.0]},
        {"b": [[1.0], [], [1.0]]},
        {"b": [[1.0, 2.0], [1.0], [1.0]]},
        {"b": [[1.0], 2.0, [1.0]]},
        {"b": [[1.0], [float("inf")], [1.0]]},
        {"noise_scale": float("-inf")},
        {"noise_scale": [1.0]},
    ],
)
def test_bad_tables_are_rejected(changes):
    with pytest.raises(ValueError, match=r"^sampler table: .*$"):
        SamplerTable.from_json(example_table().to_json() | changes)


@pytest.mark.parametrize("data", [{}, [], None, "table", {"steps": 1}])
def test_what_is_no_table_is_rejected(data):
    with pytest.raises(ValueError, match=r"^sampler table: .*$"):
        SamplerTable.from_json(data)


def test_the_loop_is_the_formula_to_the_bit():
    """One float32 rounding an operation, in this order: what a device has to do for the same latents."""
    table, guidance, noise = example_table(), np.float32(1.7), randn(2, 5).numpy()
    f32 = np.float32

    def predict(latents, timestep):
        return torch.sin(latents) * (timestep / 1000), torch.cos(3 * latents)

    latents, history = f32(table.noise_scale) * noise, []
    for k in range(table.steps):
        model_input = torch.from_numpy(f32(table.input_scale[k]) * latents)
        without, with_text = (p.numpy() for p in predict(model_input, table.timesteps[k]))
        history.append(without + guidance * (with_text - without))
        latents = f32(table.a[k]) * latents
        for j, coefficient in enumerate(table.b[k]):
            latents = latents + f32(coefficient) * history[-1 - j]
    actual = sample(predict, table, noise, 1.7)
    assert actual.dtype == torch.float32
    assert actual.numpy().tobytes() == latents.tobytes()


@pytest.mark.parametrize(("guidance", "expected"), [(0.0, 2.0), (1.0, 3.0), (1.5, 3.5), (7.5, 9.5)])
def test_guidance_extrapolates_from_without_to_with_text(guidance, expected):
    table = SamplerTable(1, [1.0], [1.0], [0.0], [[1.0]], 1.0)
    result = sample(lambda x, t: (torch.full_like(x, 2), torch.full_like(x, 3)), table, torch.zeros(1, 2), guidance)
    assert result.tolist() == [[expected, expected]]


def test_predictions_of_another_precision_are_combined_in_float32():
    table = SamplerTable(1, [1.0], [1.0], [0.0], [[1.0]], 1.0)
    without, with_text = randn(1, 64).half(), randn(1, 64, seed=1).half()
    result = sample(lambda x, t: (without, with_text), table, np.zeros((1, 64)), 4.5)
    assert torch.equal(result, without.float() + 4.5 * (with_text.float() - without.float()))


def test_progress_is_reported_after_every_step():
    seen = []
    table = example_table()
    result = sample(lambda x, t: (x, x), table, randn(1, 4), 2.0, lambda k, latents: seen.append((k, latents)))
    assert [k for k, _ in seen] == [0, 1, 2]
    assert torch.equal(seen[-1][1], result)


def test_a_prediction_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"prediction of shape \(1, 8\) for latents \(1, 4\)"):
        sample(lambda x, t: (None, torch.zeros(1, 8)), example_table(), randn(1, 4), 1)
