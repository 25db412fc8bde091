"""Whole trainings: one, the winners of a search, and what they end with."""
