"""Core ML programs read and run operator by operator in PyTorch, from what is written in a package."""
