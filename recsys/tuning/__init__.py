"""Search for hyperparameters: the space, the study, its figures, the file of the best."""
