"""Where models come from and go to: the bundled default, folders, and the Hugging Face Hub."""
