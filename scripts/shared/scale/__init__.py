"""More than one host (ENGINE=procrastinate): the queue of campaigns, and the workers that empty it.

A run uses `jobs`, without the engine's packages. Only `engine` imports them. `worker` runs a worker.
"""
