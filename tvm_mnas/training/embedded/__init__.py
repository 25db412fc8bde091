"""The images that ship with tvm-mnas: 14,000 of Fashion-MNIST, with their licence."""
