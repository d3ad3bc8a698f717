"""Bundles and programs without Python: a C++ runner, on this machine and on emulated ARM64 processors."""
