"""Scripts that run inside the sandbox. They know nothing of this project; Python 3.9 will do."""
