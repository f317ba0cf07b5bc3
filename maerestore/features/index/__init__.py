"""Retrieval: an index of image features on disk, its nearest neighbours and its near-duplicates."""
