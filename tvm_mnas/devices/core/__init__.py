"""Device core: profiles, host facts, clocks and heat, the tracker, and what a latency is."""
