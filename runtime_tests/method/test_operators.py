"""method/operators.py: norms and means are what their names say, and a target's forms hold while it exports."""

import pytest
import torch
from torch.nn import functional as F

from edge_hadanorm.method import operators
from edge_hadanorm.method.operators import PRODUCTS, Operators, computed_by, layer_norm, rms_norm, token_mean
from runtime_tests.support.helpers import randn

X, WEIGHT = 3 * randn(2, 5, 16) + 1, randn(16, seed=1)


def test_norms_are_those_of_pytorch():
    torch.testing.assert_close(layer_norm(X, 1e-3), F.layer_norm(X, (16,), eps=1e-3))
    torch.testing.assert_close(rms_norm(X, WEIGHT, 1e-3), F.rms_norm(X, (16,), WEIGHT, 1e-3))
    torch.testing.assert_close(rms_norm(X), F.rms_norm(X, (16,), eps=operators.LAYER_NORM_EPS))


def test_an_rms_norm_has_the_root_mean_square_that_is_asked_for():
    y = rms_norm(X, eps=0.0, rms=0.25)
    torch.testing.assert_close(y.square().mean(-1).sqrt(), torch.full((2, 5), 0.25, dtype=X.dtype))


def test_a_mean_counts_tokens_by_their_weights():
    torch.testing.assert_close(token_mean(X), X.mean(1, keepdim=True))
    weights = torch.tensor([[1.0, 2, 0, 0, 1], [0, 0, 0, 0, 3]], dtype=X.dtype)
    expected = torch.stack([(X[0, 0] + 2 * X[0, 1] + X[0, 4]) / 4, X[1, 4]]).unsqueeze(1)
    torch.testing.assert_close(token_mean(X, weights), expected)


@pytest.mark.parametrize("operator", [layer_norm, rms_norm, token_mean])
def test_operators_have_gradients(operator):
    assert torch.autograd.gradcheck(operator, X.clone().requires_grad_())


def test_other_forms_hold_while_inside_also_where_it_fails():
    ones = Operators(*[lambda x, *_: torch.ones_like(x)] * 3)
    with computed_by(ones):
        for operator in (layer_norm, rms_norm, token_mean):
            assert torch.equal(operator(X), torch.ones_like(X))
        assert torch.equal(rms_norm(X, WEIGHT), WEIGHT.expand_as(X))
    with pytest.raises(ZeroDivisionError), computed_by(ones):
        layer_norm(1 / 0)
    assert torch.equal(layer_norm(X), PRODUCTS.layer_norm(X, operators.LAYER_NORM_EPS))


class Norms(torch.nn.Module):
    def forward(self, x):
        return layer_norm(x) + rms_norm(x, torch.ones(16, dtype=x.dtype)) + token_mean(x)


def test_an_exported_graph_has_the_forms_of_the_target():
    aten = torch.ops.aten
    native = Operators(lambda x, eps: F.layer_norm(x, (16,), eps=eps), PRODUCTS.rms_norm, PRODUCTS.token_mean)
    with computed_by(native):
        program = torch.export.export(Norms(), (X,))
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(aten.layer_norm.default) == 1
    assert targets.count(aten.linear.default) == 1  # of the RMS norm
    targets = [node.target for node in torch.export.export(Norms(), (X,)).graph.nodes]
    assert targets.count(aten.layer_norm.default) == 0
    assert targets.count(aten.linear.default) == 3
