"""The farm: leases, worker processes, quarantine, and the timing of kernels and networks."""
