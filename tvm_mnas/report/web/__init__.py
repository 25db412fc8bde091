"""The pages about runs: self-contained HTML with pictures that can be touched."""
