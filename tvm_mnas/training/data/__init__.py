"""Where training images come from: listed, opened, split and batched."""
