"""Pretraining of the autoencoder."""
