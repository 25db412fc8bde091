"""What the commands do: one module each, which `cli.py` registers. They print; only `cli.py` ends the process."""
