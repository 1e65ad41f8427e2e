"""The best linear unbiased estimate in each form of its solution, as a layer and of labelled fields."""
