"""Device servers: the local one, the C bundle, and how they reach phones and boards."""
