"""The boards in ``monitoring/grafana``; ``python -m monitoring.boards`` writes them. To change one, change it here."""
