"""What the models cost: ours and the published package side by side, with random weights of a given geometry."""
