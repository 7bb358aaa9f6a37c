"""``/metrics``: plain totals fed from the event log, and a Prometheus collector that renders them."""
