"""What is asked: any model as a function of packed inputs, the names of what it returns, and the target explained."""
