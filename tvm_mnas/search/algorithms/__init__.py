"""Who chooses the next candidates: the controller of the paper, and what it is compared with, as Optuna samplers."""
