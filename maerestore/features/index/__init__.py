"""Retrieval: an index of image features on disk, with search for nearest neighbours and near-duplicates."""
