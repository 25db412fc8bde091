"""Workflows: what bench, tune, compare and doctor do."""
