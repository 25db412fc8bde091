"""Where a network runs, and how long it takes there."""
