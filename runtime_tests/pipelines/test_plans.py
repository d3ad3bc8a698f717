"""plans.py: coefficients at a guidance, what is predicted, and the form in the manifest."""

import json
from dataclasses import replace

import diffusers
import numpy as np
import pytest

from edge_hadanorm.pipelines.plans import NEGATIVE, TEXT, Plan, Row
from edge_hadanorm.pipelines.probing import probe

FLOW_DPM = diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
PLAN = Plan(
    (
        Row(900.0, 1.0, 1.0, b=(-0.3,), known=(0.1, 0.9)),
        Row(500.0, 0.5, 0.9, b=(-0.4, 0.1), c=(0.2,)),
        Row(100.0, 0.25, 1.1, b_text=(-0.7, 0.0, 0.05), b_negative=(0.0, 0.25), c=(0.0, 0.3)),
    ),
    noise_scale=2.0,
)


def float32(value: float) -> float:
    return float(np.float32(value))


def test_coefficients_are_affine_in_the_guidance():
    steps = PLAN.at(4.5)
    assert [step.text for step in steps] == [
        (float32(4.5 * -0.3),),
        (float32(4.5 * -0.4), float32(4.5 * 0.1)),
        (float32(-0.7), 0.0, float32(0.05)),
    ]
    assert [step.negative for step in steps] == [
        (float32(-3.5 * -0.3),),
        (float32(-3.5 * -0.4), float32(-3.5 * 0.1)),
        (0.0, 0.25),
    ]
    assert [step.noise for step in steps] == [(), (float32(0.2),), (0.0, float32(0.3))]
    assert [step.timestep for step in steps] == [900.0, 500.0, 100.0]


def test_guidance_is_from_the_negative_prompts_prediction_to_the_texts():
    """b_text + b_negative stays, whatever the guidance: both predictions alike give what each gives alone."""
    for guidance in (1.0, 1.5, 7.0, 100.0):
        for step, row in zip(PLAN.at(guidance)[:2], PLAN.rows, strict=False):
            sums = [text + negative for text, negative in zip(step.text, step.negative, strict=True)]
            assert sums == pytest.approx(list(row.b), abs=1e-5)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
def test_without_guidance_the_negative_prompt_is_not_predicted(guidance):
    plan = probe(FLOW_DPM, 8)
    assert plan.at(guidance) == plan.at(1.0)
    assert [step.predicted for step in plan.at(guidance)] == [(TEXT,)] * 8
    assert [step.text for step in plan.at(guidance)] == [tuple(map(float32, row.b)) for row in plan.rows]
    assert (plan.evaluations(guidance), plan.evaluations(1.5)) == (8, 16)


def test_what_no_row_uses_is_not_predicted():
    predicted = [step.predicted for step in PLAN.at(1.0)]
    assert predicted == [(TEXT,), (TEXT, NEGATIVE), (TEXT,)]  # b_negative of the last row looks one step back
    forecast = Plan((Row(9.0, 1.0, 1.0, b=(1.0,)), Row(5.0, 1.0, 1.0, b=(0.0, 0.5))), 1.0)
    assert [step.predicted for step in forecast.at(1.0)] == [(TEXT,), ()]


def test_guidance_on_a_part_of_the_steps():
    """What is predicted inside is guided as it was, wherever it is used; elsewhere the text's prediction stands."""
    plan = probe(FLOW_DPM, 10)
    part = plan.guided_between(0.2, 0.6)
    inside = range(2, 6)
    assert [NEGATIVE in step.predicted for step in part.at(3.0)] == [k in inside for k in range(10)]
    assert [step.text for step in part.at(1.0)] == [step.text for step in plan.at(1.0)]
    whole = plan.at(3.0)
    for k, step in enumerate(part.at(3.0)):
        for j, coefficient in enumerate(plan.rows[k].b):
            text, negative = step.text[j], step.negative[j] if j < len(step.negative) else 0.0
            if k - j in inside:
                assert (text, negative) == (whole[k].text[j], whole[k].negative[j])
            else:
                assert (text, negative) == (float32(coefficient), 0.0)
    assert plan.guided_between(0.0, 1.0).at(3.0) == whole
    assert [step.predicted for step in plan.guided_between(0.5, 0.5).at(3.0)] == [(TEXT,)] * 10


@pytest.mark.parametrize("shares", [(-0.1, 1.0), (0.0, 1.1), (0.6, 0.4), (float("nan"), 1.0)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match=r"are no shares of the steps"):
        PLAN.guided_between(*shares)


@pytest.mark.parametrize("guidance", [-0.1, 100.1, float("nan"), float("inf")])
def test_guidance_has_bounds(guidance):
    with pytest.raises(ValueError, match=r"`guidance` is .*, not a number from 0 to 100"):
        PLAN.at(guidance)


def test_a_plan_for_one_guidance_refuses_another():
    own = replace(PLAN, guidance=4.5)
    assert own.at(4.5) == PLAN.at(4.5)
    with pytest.raises(ValueError, match=r"made for `guidance` 4\.5 alone"):
        own.at(4.0)


def single(rows: int, **changes) -> Plan:
    """A plan whose rows need nothing of those before."""
    return Plan(tuple(Row(900.0 - k, 1.0, 1.0, b=(-0.1,), known=(0.1 * k, 1.0)) for k in range(rows)), 2.0, **changes)


@pytest.mark.parametrize(
    ("steps", "strength", "row"),
    [(8, 1.0, 0), (8, 0.6, 3), (8, 0.5, 4), (8, 0.01, 7), (20, 0.6, 8), (10, 0.3, 7), (30, 0.1, 27), (1, 0.2, 0)],
)
def test_the_strength_chooses_the_row_as_diffusers_does(steps, strength, row):
    """int(n - min(n * strength, n)), in double precision."""
    plan = single(steps, guidance=4.5)
    assert plan.begun(strength).rows == plan.rows[row:]
    assert plan.begun(strength).guidance == 4.5
    assert plan.begun(strength).noise_scale == 1.0


def test_a_picture_begins_with_a_start_or_with_the_row_before():
    start = replace(single(2), noise_scale=1.5)
    plan = single(4, starts={2: start})
    assert plan.begun(0.5) is start
    assert plan.begun(0.25).rows == plan.rows[3:]
    two_calls = replace(plan.rows[3], b=(-0.3, 0.1))
    assert replace(plan, rows=(*plan.rows[:3], two_calls)).begun(0.25) is start
    guided = plan.guided_between(0.0, 0.75).begun(0.5)
    assert [row.b for row in guided.rows] == [(-0.1,), ()]
    assert [row.b_text for row in guided.rows] == [(0.0,), (-0.1,)] or guided.rows[0].b_text == ()


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, float("nan")])
def test_impossible_strengths_are_refused(strength):
    with pytest.raises(ValueError, match=r"`strength` is .* not a number above 0 and at most 1"):
        single(4).begun(strength)


def test_where_no_picture_can_begin_is_said():
    with pytest.raises(ValueError, match=r"no picture can begin a plan at step 6 of 12: take other steps or"):
        probe(FLOW_DPM, 12).begun(0.5)
    with pytest.raises(ValueError, match="no picture can begin a plan that does not say how noisy its latents are"):
        Plan((Row(1.0, 1.0, 1.0),), 1.0).begun(1.0)


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        replace(PLAN, guidance=4.5),
        single(4, starts={2: single(2), 3: single(1)}),
        probe(FLOW_DPM, 8),
        probe(diffusers.LCMScheduler(), 4),
    ],
)
def test_json_round_trip_is_exact(plan):
    assert Plan.from_json(json.loads(json.dumps(plan.to_json(), allow_nan=False))) == plan


def changed(row: int | None, **changes) -> dict:
    """The form in the manifest with a few values of a row, or of the whole, changed; None: left out."""
    data = PLAN.to_json()
    place = data if row is None else data["rows"][row]
    place |= changes
    for name in [name for name, value in changes.items() if value is None]:
        del place[name]
    return data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (changed(None, rows=[]), "no rows"),
        (changed(None, rows=None), "rows missing"),
        (changed(None, rows={}), "rows must be a list"),
        (changed(None, rows=[1]), "row 0 must be an object"),
        (changed(None, noise_scale=None), "noise_scale missing"),
        (changed(None, noise_scale=float("-inf")), "noise_scale holds"),
        (changed(None, noise_scale=[1.0]), "noise_scale holds"),
        (changed(None, guidance="4.5"), "guidance holds"),
        (changed(0, a=None), "row 0 has no a"),
        (changed(1, timestep=None), "row 1 has no timestep"),
        (changed(1, a=float("nan")), "row 1 holds"),
        (changed(1, a=1e39), "row 1 holds"),
        (changed(1, input_scale=10**400), "row 1 holds"),
        (changed(1, a="1"), "row 1 holds"),
        (changed(1, a=True), "row 1 holds"),
        (changed(0, b=[1.0, 2.0]), "b of row 0 has more than 1"),
        (changed(1, c=[1.0, 2.0, 3.0]), "c of row 1 has more than 2"),
        (changed(1, b_text=2.0), "b_text of row 1 must be a list"),
        (changed(1, b_negative=["x"]), "b_negative of row 1 holds"),
        (changed(0, known=[1.0]), "known of row 0 must be a list of two"),
        (changed(0, known=[1.0, float("inf")]), "row 0 holds"),
        (changed(None, starts=[]), "starts must be an object"),
        (changed(None, starts={"one": single(2).to_json()}), "starts must be an object of plans by row"),
        (changed(None, starts={"9" * 5000: single(2).to_json()}), "starts must be an object of plans by row"),
        (changed(None, starts={"1": single(1).to_json()}), "start at row 1 is not of the rows from there on"),
        (changed(None, starts={"3": single(1).to_json()}), "start at row 3 is not of the rows"),
        (changed(None, starts={"1": {"rows": []}}), "missing"),
        (changed(None, starts={"1": PLAN.to_json()}), "start at row 1 is not"),
        (changed(None, starts={"2": Plan((Row(1.0, 1.0, 1.0),), 1.0).to_json()}), "known of row 0 of the start"),
    ],
)
def test_bad_plans_are_rejected(data, reason):
    with pytest.raises(ValueError, match=rf"^plan: .*{reason}"):
        Plan.from_json(data)


@pytest.mark.parametrize("data", [{}, [], None, "plan", {"rows": []}])
def test_what_is_no_plan_is_rejected(data):
    with pytest.raises(ValueError, match=r"^plan: .*$"):
        Plan.from_json(data)


def test_unknown_keys_are_ignored():
    assert Plan.from_json(PLAN.to_json() | {"name": "mine"}) == PLAN
