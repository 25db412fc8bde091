"""How accurate a network is."""
