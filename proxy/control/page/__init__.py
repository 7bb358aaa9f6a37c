"""The operator's page: the files that Vite built, and serving them under ``/ui``."""
