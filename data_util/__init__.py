"""Audio, labels, data sets: from files to tensors."""
