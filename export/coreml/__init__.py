"""The targets coreml and coreml-pte: Core ML packages, alone or in ExecuTorch programs."""
