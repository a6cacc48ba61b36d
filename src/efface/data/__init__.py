"""Data: sources, the decoded store, drawn faces, and batches augmented on the device."""
