"""How the tiny preset's weights are made: scenes, styles, prompts and the three training loops. Needs the extra `train`."""
