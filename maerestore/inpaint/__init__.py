"""From a photo and a mask to a filled photo: regions, windows, coarse fill, blend, detail."""
