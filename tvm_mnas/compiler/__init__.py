"""How a network becomes tuned machine code."""
