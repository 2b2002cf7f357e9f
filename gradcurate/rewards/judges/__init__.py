"""A language model as the judge: its file, what it is asked, and what its replies mean."""
