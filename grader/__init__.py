"""Points for the assignment's questions, for any notebook: see docs/grader.md."""
