"""The fast Hadamard transform under torch.export."""

import torch

from edge_hadanorm.method.hadamard import fast_hadamard, hadamard_matrix
from runtime_tests.support.helpers import randn


def test_fast_transform_exports_as_it_computes():
    class Fast(torch.nn.Module):
        def forward(self, x):
            return fast_hadamard(x)

    x = randn(3, 68)  # no other test constructs this order: its signs are first cached while exporting
    exported = torch.export.export(Fast(), (x,)).module()
    torch.testing.assert_close(exported(x), x @ hadamard_matrix(68), rtol=0, atol=1e-12)
