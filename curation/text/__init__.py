"""What is done to text, a column at a time: cleaning, prompt boilerplate, answer forms, languages."""
