"""What watches the product from outside: boards for Grafana, rules for Prometheus."""
