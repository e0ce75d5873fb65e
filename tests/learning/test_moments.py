"""Mean, variance and their gradients are those that PyTorch computes; skipped without PyTorch."""

import pytest

torch = pytest.importorskip("torch")
learned_moments = pytest.importorskip("dfmpc_onnx.learning.moments")

SHAPE = (5, 3, 6, 4)


def batch(innermost=torch.contiguous_format):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
    return x.contiguous(memory_format=innermost).requires_grad_(True)


def gradient(function, x):
    """Of a sum that weighs every mean and variance differently."""
    mean, variance = function(x)
    weights = torch.arange(1, mean.numel() + 1, dtype=torch.float64).reshape(mean.shape)
    ((weights * mean).sum() + (variance * weights.square()).sum()).backward()
    return mean.detach(), variance.detach(), x.grad


@pytest.mark.parametrize("axes", [(0, 2, 3), (2, 3), (0,), (1, 2, 3)])
@pytest.mark.parametrize("innermost", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_var_mean(axes, innermost):
    found = gradient(lambda x: learned_moments.moments(x, axes), batch(innermost))
    wanted = gradient(lambda x: torch.var_mean(x, dim=axes, correction=0)[::-1], batch())
    for value, reference in zip(found, wanted, strict=True):
        assert value.shape == reference.shape and torch.allclose(value, reference)


def test_variance_of_values_far_from_0_keeps_its_digits():
    x = 1000 + torch.tensor([[-0.01, 0.01]], dtype=torch.float32)
    assert float(learned_moments.moments(x, (1,))[1]) == pytest.approx(1e-4, rel=0.05)
