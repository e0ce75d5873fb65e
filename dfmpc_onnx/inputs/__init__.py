"""What a network is fed: the specification of its inputs, procedural and given samples, normalization."""
