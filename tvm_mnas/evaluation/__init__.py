"""Evaluation: one candidate's way to its accuracy and its latency."""
