"""Plumbing shared by the notebooks; each module holds one idea and can be imported alone."""
