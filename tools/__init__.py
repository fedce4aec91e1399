"""Commands for working on the project; the notebooks use none of them."""
