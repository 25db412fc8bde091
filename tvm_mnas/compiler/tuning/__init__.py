"""Tuning: which kernel gets the next schedules, and the warm processes that build them."""
