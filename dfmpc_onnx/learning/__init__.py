"""Images learned by gradient from what a network itself holds. The only wing that imports PyTorch (extra `learned`)."""
