"""What an architecture is: the torch network and its cost."""
