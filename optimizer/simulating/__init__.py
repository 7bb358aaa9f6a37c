"""A route's learning played on recorded outcomes: the world, what is best in hindsight, and the run itself."""
