"""Changes to code of Celery, kombu, billiard and Flower, one module per subject."""
