"""What people look at after a search."""
