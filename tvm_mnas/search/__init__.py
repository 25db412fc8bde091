"""How a network is found."""
