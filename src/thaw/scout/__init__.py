"""`thaw scout`: networks and depths worth a study, by probes."""
