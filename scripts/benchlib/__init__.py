"""Parts of `bench_inpaint.py`: photographs, peers, metrics, tables and the contact sheet."""
