"""The commands about runs of a search: start one, show it, lay several over each other, export a network."""
