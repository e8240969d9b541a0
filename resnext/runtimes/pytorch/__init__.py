"""Live PyTorch models: eager, folded, compiled."""
