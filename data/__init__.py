"""The three data sets: real files found locally or downloaded, or samples generated from a seed."""
