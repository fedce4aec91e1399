"""What the hand-written code costs, beside what a user would call instead."""
