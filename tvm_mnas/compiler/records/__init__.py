"""Tuning records: what was measured for each kernel, stored, layered, checked and maintained."""
