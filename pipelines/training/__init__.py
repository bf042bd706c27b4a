"""How the tiny preset's weights are made: scenes, styles, prompts, training loops. Needs the extra `train`."""
