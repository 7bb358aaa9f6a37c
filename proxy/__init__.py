"""HTTP in, HTTP out: the data plane, the control process and the command line."""
