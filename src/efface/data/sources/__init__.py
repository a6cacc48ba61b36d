"""Where images and labels come from: parquet, image folders (CelebA, FairFace and plain ones) and the hub."""
