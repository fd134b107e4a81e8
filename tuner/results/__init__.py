"""What a study found, and how it is said in numbers."""
