"""Training: the corpora, masks and losses of pretraining the autoencoder, of contrastive tuning and of the refiner.

`pretrain.py` and `restorer.py` hold the two kinds of runs, `run.py` what they share, `*_recipe.py` their settings.
"""
