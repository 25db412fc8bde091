"""What detection needs beside classification: annotations, targets, losses, mean average precision."""
