"""The networks that the paper's Table 1 compares, and the MnasNets that were released later."""
