"""Changes to Celery, kombu and Flower. `registry.py` lists each with its reason; the other modules hold the code."""
