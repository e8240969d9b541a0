"""A roofline on paper for the network on the Triton kernels: what each launch needs at least."""
