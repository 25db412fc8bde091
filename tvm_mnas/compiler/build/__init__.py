"""Building: a lowered network and its records -> a shared library for the device."""
