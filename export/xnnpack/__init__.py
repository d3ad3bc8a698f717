"""The target xnnpack: ExecuTorch programs in XNNPACK's delegate."""
