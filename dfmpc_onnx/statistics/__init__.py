"""Statistics without data: activations on procedural images, Gaussian fields, moments in closed form."""
