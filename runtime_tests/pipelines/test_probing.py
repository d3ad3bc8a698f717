"""probing.py: plans follow the stock diffusers schedulers, with their noise, and what has no plan is refused."""

import copy
import itertools
import logging
import warnings
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch

from edge_hadanorm.pipelines.plans import Plan
from edge_hadanorm.pipelines.probing import begin, probe, replay, replay_plan, with_starts

DPM = diffusers.DPMSolverMultistepScheduler
SINGLE = diffusers.DPMSolverSinglestepScheduler
DDIM = diffusers.DDIMScheduler
EULER = diffusers.EulerDiscreteScheduler
FLOW = diffusers.FlowMatchEulerDiscreteScheduler
FLOW_DPM = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.5)
SDE = dict(algorithm_type="sde-dpmsolver++")

# By class: settings of each that is tried, and names of them where there are several.
PLANNED = {
    "CMStochasticIterativeScheduler": [dict(clip_denoised=False)],
    "CogVideoXDDIMScheduler": [dict(clip_sample=False)],
    "DDIMInverseScheduler": [dict(clip_sample=False)],
    "DDIMParallelScheduler": [dict(clip_sample=False)],
    "DDIMScheduler": [
        dict(clip_sample=False),
        dict(clip_sample=False, prediction_type="v_prediction", timestep_spacing="trailing"),
    ],
    "DDPMParallelScheduler": [dict(clip_sample=False)],
    "DDPMScheduler": [dict(clip_sample=False), dict(clip_sample=False, variance_type="fixed_large")],
    "DEISMultistepScheduler": [{}, FLOW_DPM],
    "DPMSolverMultistepInverseScheduler": [{}],
    "DPMSolverMultistepScheduler": [
        {},
        FLOW_DPM,
        dict(solver_type="heun", use_karras_sigmas=True),
        dict(solver_order=3),
        dict(prediction_type="v_prediction"),
        SDE,
        SDE | FLOW_DPM,
    ],
    "DPMSolverSinglestepScheduler": [{}, SDE],
    "EDMDPMSolverMultistepScheduler": [{}, SDE],
    "EDMEulerScheduler": [{}],
    "EulerAncestralDiscreteScheduler": [{}, dict(prediction_type="v_prediction")],
    "EulerDiscreteScheduler": [
        {},
        dict(use_karras_sigmas=True, timestep_spacing="leading", steps_offset=1),
        dict(prediction_type="v_prediction"),
    ],
    "FlowMapEulerDiscreteScheduler": [{}],
    "FlowMatchEulerDiscreteScheduler": [dict(shift=3.0), dict(stochastic_sampling=True)],
    "FlowMatchHeunDiscreteScheduler": [{}],
    "FlowMatchLCMScheduler": [{}, dict(shift=3.0)],
    "HeunDiscreteScheduler": [{}],
    "IPNDMScheduler": [{}],
    "KDPM2AncestralDiscreteScheduler": [{}],
    "KDPM2DiscreteScheduler": [{}],
    "LCMScheduler": [{}],
    "LMSDiscreteScheduler": [{}],
    "LTXEulerAncestralRFScheduler": [{}],
    "MiniMaxH3Scheduler": [{}],
    "PNDMScheduler": [{}, dict(skip_prk_steps=True)],
    "SASolverScheduler": [{}],
    "SCMScheduler": [{}],
    "TCDScheduler": [{}],
    "UnCLIPScheduler": [dict(clip_sample=False)],
    "UniPCMultistepScheduler": [{}, dict(prediction_type="flow_prediction", use_flow_sigmas=True)],
}
# By class: why it has no plan, as the message says or as it is made.
NOT_PLANNED = {
    "AmusedScheduler": "of tokens, not of latents",
    "BlockRefinementScheduler": "of tokens, not of latents",
    "CogVideoXDPMScheduler": "its step takes the prediction before",
    "CosineDPMSolverMultistepScheduler": "needs torchsde, whose noise is no sequence of draws",
    "DDPMWuerstchenScheduler": "its timesteps are shares, one a sample",
    "DPMSolverSDEScheduler": "needs torchsde, whose noise is no sequence of draws",
    "DiscreteDDIMScheduler": "of tokens, not of latents",
    "EntropyBoundScheduler": "of tokens, not of latents",
    "HeliosDMDScheduler": "its steps take stages of several sizes",
    "HeliosScheduler": "its steps take stages of several sizes",
    "KarrasVeScheduler": "deprecated; its steps change the latents before the model sees them",
    "PiflowScheduler": "a step takes a policy, not a prediction",
    "RFD4ProteinaScheduler": "of proteins",
    "RePaintScheduler": "its steps take the masked picture",
    "ScoreSdeVeScheduler": "deprecated; it has no step",
    "VQDiffusionScheduler": "of tokens, not of latents",
}
STEPS = {
    "MiniMaxH3Scheduler": [4, 8, 20],
    "PNDMScheduler": [4, 8, 20],
    "UnCLIPScheduler": [4, 8, 20],
    "IPNDMScheduler": [4, 8, 20],
}
CASES = [
    pytest.param(name, settings, steps, id=f"{name}-{i}-{steps}")
    for name, several in PLANNED.items()
    for i, settings in enumerate(several)
    for steps in STEPS.get(name, [1, 4, 8, 20])
]
# Their own float32 arithmetic cancels.
ERRORS = {
    "DEISMultistepScheduler": 5e-5,
    "FlowMatchHeunDiscreteScheduler": 2e-5,
    "DPMSolverMultistepInverseScheduler": 2e-5,
}

REFUSED = {
    "brownian": (lambda: BrownianScheduler(), "not deterministic"),
    "twice": (lambda: TwiceScheduler(), "more than once a step"),
    "ddim-clipped": (DDIM, "clip_sample"),
    "dpm-thresholding": (lambda: DPM(thresholding=True), "thresholding"),
    "nonlinear": (lambda: SaturatingScheduler(), "not linear"),
    "learned-variance": (lambda: DPM(variance_type="learned_range"), "no plan"),
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


class BrownianScheduler(FLOW):
    """Draws noise in a way of its own."""

    def step(self, model_output, timestep, sample, **kwargs):
        return (super().step(model_output, timestep, sample, return_dict=False)[0] + torch.randn(sample.shape),)


class TwiceScheduler(FLOW):
    """Draws noise twice a step."""

    def __init__(self, num_train_timesteps=1000):
        super().__init__(num_train_timesteps, stochastic_sampling=True)

    def step(self, model_output, timestep, sample, **kwargs):
        once = super().step(model_output, timestep, sample, return_dict=False)[0]
        self._step_index -= 1
        return ((once + super().step(model_output, timestep, sample, return_dict=False)[0]) / 2,)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def silently(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def assert_follows(plan: Plan, scheduler, steps: int, error: float = 1e-5, **schedule) -> None:
    """The plan replays the scheduler on random predictions and the same noise: model inputs and latents."""
    predictions, noise = randn(1 + plan.steps, 2, 3, 8, 8), randn(1 + plan.steps, 2, 3, 8, 8, seed=1)
    expected = silently(lambda: replay(begin(scheduler, steps, **schedule), predictions, noise))
    actual = replay_plan(plan, predictions, noise)
    assert ((actual - expected).abs().amax(1) <= error * expected.abs().amax(1)).all()


def test_every_scheduler_of_diffusers_is_known():
    found = {
        name
        for name in dir(diffusers)
        if isinstance(cls := getattr(diffusers, name), type)
        and name.endswith("Scheduler")
        and not cls.__module__.endswith("utils")
    }
    assert found == {*PLANNED, *NOT_PLANNED}


@pytest.mark.parametrize(("name", "settings", "steps"), CASES)
def test_a_plan_follows_its_scheduler(name, settings, steps):
    scheduler = silently(lambda: getattr(diffusers, name)(**settings))
    plan = probe(scheduler, steps)
    assert plan.steps == len(begin(scheduler, steps).timesteps)
    assert_follows(plan, scheduler, steps, ERRORS.get(name, 1e-5))


# Those that do not say how noisy latents are.
NOT_BEGUN = (
    "DDIMInverseScheduler",
    "IPNDMScheduler",
    "LTXEulerAncestralRFScheduler",
    "SCMScheduler",
)


@pytest.mark.parametrize(
    ("name", "settings"),
    [pytest.param(name, several[0], id=name) for name, several in PLANNED.items()],
)
def test_a_plan_begins_with_a_picture_as_its_scheduler_does(name, settings):
    """Wherever a pipeline of picture to picture can let it begin: at the first call of each step."""
    scheduler = silently(lambda: getattr(diffusers, name)(**settings))
    steps = 5
    plan = with_starts(probe(scheduler, steps), scheduler, steps)
    calls = getattr(scheduler, "order", 1)
    if name in NOT_BEGUN:
        with pytest.raises(ValueError, match="no picture can begin a plan"):
            plan.begun(0.5)
        return
    for row in range(0, plan.steps, calls):
        begun, expected = plan.begun((plan.steps - row) / plan.steps), begin(scheduler, steps, row)
        assert begun.steps == plan.steps - row
        noise, predictions = randn(1 + begun.steps, 2, 3, 8, 8, seed=1), randn(1 + begun.steps, 2, 3, 8, 8)
        if row == 0:  # as with noise alone, which its scale of noise is for
            begun = replace(begun, noise_scale=plan.noise_scale)
        reference = silently(lambda: replay(expected, predictions, noise))  # noqa: B023
        actual = replay_plan(begun, predictions, noise)
        error = ERRORS.get(name, 1e-5)
        assert ((actual - reference).abs().amax(1) <= error * reference.abs().amax(1)).all(), row


def test_plans_of_single_step_schedulers_begin_with_their_own_rows():
    for scheduler in (FLOW(shift=3.0), diffusers.LCMScheduler(), EULER(), diffusers.HeunDiscreteScheduler()):
        assert with_starts(probe(scheduler, 8), scheduler, 8).starts == {}
    scheduler = DPM(**FLOW_DPM)  # whose last step is of first order, wherever it begins
    assert list(with_starts(probe(scheduler, 8), scheduler, 8).starts) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", NOT_PLANNED)
def test_other_schedulers_are_refused_in_one_line(name):
    """Those that can be made of what they take by default; others name what they need."""
    try:
        scheduler = silently(getattr(diffusers, name))
    except (TypeError, ImportError) as error:
        reason = str(error)
    else:
        with pytest.raises(ValueError, match=rf"^{name} (has no plan|is not linear)[^\n]*$") as raised:
            probe(scheduler, 4)
        reason = str(raised.value)
    assert any(word in reason for word in ("torchsde", "required", name))


@pytest.mark.parametrize("scheduler", [lambda: FLOW(shift=3.0), EULER, lambda: DDIM(clip_sample=False)])
def test_single_step_schedulers_need_no_history(scheduler):
    assert [len(row.b) for row in probe(scheduler(), 8).rows] == [1] * 8


def test_flow_euler_coefficients_are_the_steps_of_sigma():
    scheduler = FLOW(shift=3.0)
    plan = probe(scheduler, 8)
    scheduler.set_timesteps(8)
    assert [row.a for row in plan.rows] == [1.0] * 8
    assert [row.b[0] for row in plan.rows] == scheduler.sigmas.diff().tolist()


def test_ddim_coefficients_are_equation_12_of_its_paper():
    scheduler = DDIM(clip_sample=False)
    rows = probe(scheduler, 4).rows
    alphas = [scheduler.alphas_cumprod[int(row.timestep)].item() for row in rows]
    for row, (now, after) in zip(
        rows, itertools.pairwise([*alphas, scheduler.final_alpha_cumprod.item()]), strict=True
    ):
        scale = (after / now) ** 0.5
        assert row.a == pytest.approx(scale, rel=1e-5)
        assert row.b[0] == pytest.approx((1 - after) ** 0.5 - scale * (1 - now) ** 0.5, rel=1e-4)


def test_lcm_coefficients_are_those_of_its_paper():
    """Multistep consistency sampling (arXiv 2310.04378, algorithm 3): the prediction of x_0, noised anew."""
    scheduler = diffusers.LCMScheduler(prediction_type="sample")
    rows = probe(scheduler, 4).rows
    assert rows[-1].c == ()
    for row, after in itertools.pairwise(rows):
        alpha = scheduler.alphas_cumprod[int(after.timestep)].item()
        skip = row.timestep * scheduler.config.timestep_scaling
        out = skip / (skip**2 + 0.25) ** 0.5
        assert row.c == pytest.approx([(1 - alpha) ** 0.5], rel=1e-5)
        assert row.b == pytest.approx([alpha**0.5 * out], rel=1e-5)


def test_the_share_of_noise_of_ddim():
    """Equation 16 of its paper (arXiv 2010.02502); a pipeline gives 0 where its caller names none."""
    scheduler = DDIM(clip_sample=False)
    assert not any(row.c for row in probe(scheduler, 4, eta=0.0).rows)
    for row, after in itertools.pairwise(probe(scheduler, 4, eta=0.5).rows):
        now, next_ = (scheduler.alphas_cumprod[int(r.timestep)].item() for r in (row, after))
        assert row.c == pytest.approx([0.5 * ((1 - next_) / (1 - now) * (1 - now / next_)) ** 0.5], rel=1e-4)
    assert probe(diffusers.TCDScheduler(), 4, eta=0.0).rows[0].c == ()
    assert probe(diffusers.LCMScheduler(), 4, eta=0.5) == probe(diffusers.LCMScheduler(), 4)


def test_the_last_step_of_a_stochastic_scheduler_adds_no_noise():
    for scheduler in (diffusers.EulerAncestralDiscreteScheduler(), diffusers.TCDScheduler(), diffusers.SCMScheduler()):
        rows = probe(scheduler, 4).rows
        assert all(row.c for row in rows[:-1])
        assert not rows[-1].c


@pytest.mark.parametrize(
    ("scheduler", "level"),
    [
        (FLOW(shift=3.0), lambda s, row: (1 - row.timestep / 1000, row.timestep / 1000)),
        (DDIM(clip_sample=False), lambda s, row: (s.alphas_cumprod[int(row.timestep)] ** 0.5, None)),
    ],
)
def test_known_pictures_are_as_noisy_as_the_latents(scheduler, level):
    for row in probe(scheduler, 4).rows:
        picture, noise = level(scheduler, row)
        noise = (1 - picture**2) ** 0.5 if noise is None else noise
        assert row.known == pytest.approx((float(picture), float(noise)), rel=1e-5)


def test_a_multistep_memory_is_cut_where_it_no_longer_matters():
    scheduler = DPM(**FLOW_DPM)
    plan = probe(scheduler, 50)
    assert max(len(row.b) for row in plan.rows) < 15
    assert_follows(plan, scheduler, 50)


def test_schedulers_of_two_calls_a_step_become_plans_of_calls():
    assert probe(diffusers.HeunDiscreteScheduler(), 4).steps == 7


def test_the_schedule_of_the_pipeline_is_followed():
    assert_follows(probe(FLOW(shift_terminal=0.1), 4), FLOW(shift_terminal=0.1), 4)
    dynamic = FLOW(use_dynamic_shifting=True)
    assert_follows(probe(dynamic, 4, mu=1.15), dynamic, 4, mu=1.15)
    sigmas = np.linspace(1, 0.25, 4).tolist()
    plan = probe(dynamic, 4, sigmas=sigmas, mu=0.8)
    assert_follows(plan, dynamic, 4, sigmas=sigmas, mu=0.8)
    assert plan.rows[0].timestep == 1000
    with pytest.raises(ValueError, match="for 4 steps, not 5"):
        probe(dynamic, 5, sigmas=sigmas, mu=0.8)


def test_a_shift_set_outside_the_config_is_followed():
    scheduler = FLOW()
    scheduler.set_shift(3.0)
    assert_follows(probe(scheduler, 4), scheduler, 4)
    assert probe(scheduler, 4) != probe(FLOW(), 4)


def test_the_scheduler_and_the_random_state_are_left_alone():
    scheduler = DPM(**FLOW_DPM)
    scheduler.set_timesteps(5)
    scheduler.step(randn(1, 3, 4, 4), scheduler.timesteps[0], randn(1, 3, 4, 4))
    before, random_state = copy.deepcopy(vars(scheduler)), torch.get_rng_state()
    probe(scheduler, 8)
    with pytest.raises(ValueError, match="deterministic"):
        probe(REFUSED["brownian"][0](), 4)
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
def test_what_has_no_plan_is_refused_in_one_line(name):
    make, reason = REFUSED[name]
    scheduler = make()
    with pytest.raises(ValueError, match=rf"^{type(scheduler).__name__}\b.*{reason}.*$") as error:
        probe(scheduler, 4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_steps_are_refused(steps):
    with pytest.raises(ValueError, match=r"^DDIMScheduler\b"):
        probe(DDIM(clip_sample=False), steps)
