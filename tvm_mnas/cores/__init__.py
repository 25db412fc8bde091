"""What a device's core computes in, and what it takes to keep it busy."""
