"""From a photo and a mask to a filled photo.

`pipeline.Inpainter` is what users call. In the order of a fill: `regions` (holes), `harmonic` (the smooth fill),
`windows` and `scene` (what the model sees), `coarse` (the autoencoder), `blend`, `refine` and `rim` (the refiner),
`texture`, `detail` and `patchmatch` (texture from known patches); `stages` joins them. Beside that: `confidence`,
`sampling` (several fills), `table` and `distributed` (many photos), `graph` and `onnx_file` (export).
"""
