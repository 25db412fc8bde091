"""The images that ship with tvm-mnas: 14,000 of Fashion-MNIST as one PNG sheet, with its description and licence."""
