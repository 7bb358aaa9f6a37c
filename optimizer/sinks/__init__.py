"""Where the event log is shipped to, besides the learner: one module per kind of sink."""
