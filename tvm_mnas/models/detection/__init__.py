"""What a detector is besides its network: anchors, the coding of boxes against them, suppression."""
