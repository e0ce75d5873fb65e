"""How good a quantized network is: fidelity, kernels and providers that run it."""
