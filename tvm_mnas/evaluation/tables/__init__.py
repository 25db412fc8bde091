"""Tables of a whole space's evaluations, made once: a search on them takes seconds, and its best is known exactly."""
