"""Compiler core: kernel, target, linker, compiled kernels, and the one way in which MetaSchedule is loaded."""
